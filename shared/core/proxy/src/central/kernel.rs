//! The kernel's part: it sends new connections of the app to Centrals, where it may.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use pannier_decide::schema::central::Way;
use pannier_netfilter::Redirect;

use crate::central::away::Target;
use crate::central::settings::Settings;

/// A rule of the kernel is renewed for a change of so many points.
const NOTICED: f64 = 0.005;

/// Its rules, as long as this lives.
pub struct Kernel {
    /// Why it cannot have one.
    pub why_not: Option<String>,
    asked: (Way, bool, Option<String>),
    redirect: RefCell<Option<Redirect>>,
    in_force: RefCell<Vec<(SocketAddrV4, u32)>>,
    admitted: RefCell<Vec<Ipv4Addr>>,
}

impl Kernel {
    /// The one that there is, if it is of use still, or a new one.
    pub fn of(before: Option<Kernel>, settings: &Settings) -> Kernel {
        let asked = (settings.table.outbound, settings.table.inbound, settings.table.listener.clone());
        before.filter(|kernel| kernel.asked == asked).unwrap_or_else(|| Kernel::probe(settings, asked))
    }

    fn probe(settings: &Settings, asked: (Way, bool, Option<String>)) -> Kernel {
        let is_asked = settings.table.inbound || matches!(settings.table.outbound, Way::Best | Way::Redirect);
        let why_not = match (is_asked && !settings.is_gateway(), &settings.table.listener) {
            (false, _) => Some("not asked for".into()),
            (true, None) => Some("the app's calls come through a Unix socket".into()),
            _ => Redirect::probe().err(),
        };
        let listener = settings.table.listener.as_deref().and_then(|text| text.parse::<SocketAddrV4>().ok());
        let opened = match (why_not, listener) {
            (Some(why), _) => Err(why),
            (None, None) => Err("the app's calls do not come to an IPv4 address".into()),
            (None, Some(listener)) => Redirect::open(listener),
        };
        let (redirect, why_not) = match opened {
            Ok(redirect) => (Some(redirect), None),
            Err(why) => (None, Some(why)),
        };
        Kernel {
            why_not,
            asked,
            redirect: RefCell::new(redirect),
            in_force: RefCell::default(),
            admitted: RefCell::default(),
        }
    }

    /// Has the kernel send a part (0…1) of new connections away.
    pub fn put(&self, weight: f64, targets: &[Target]) {
        let shares: Vec<_> = targets
            .iter()
            .filter_map(|target| match target.address {
                SocketAddr::V4(v4) => Some((v4, (weight * target.share * 10_000.0) as u32)),
                SocketAddr::V6(_) => None,
            })
            .filter(|(_, share)| *share > 0)
            .collect();
        let mut in_force = self.in_force.borrow_mut();
        let is_near = |((a, x), (b, y)): (&(SocketAddrV4, u32), &(SocketAddrV4, u32))| {
            a == b && x.abs_diff(*y) < (NOTICED * 10_000.0) as u32
        };
        let is_whole = weight >= 1.0 && *in_force != shares;
        if !is_whole && in_force.len() == shares.len() && in_force.iter().zip(&shares).all(is_near) {
            return;
        }
        if let Some(redirect) = self.redirect.borrow_mut().as_mut() {
            match redirect.set(&shares) {
                Ok(()) => *in_force = shares,
                Err(why) => eprintln!("the kernel's redirect stays as it was: {why}"),
            }
        }
    }

    /// Has the kernel let the connections of these Centrals in to the app; whether it does.
    pub fn admit(&self, app: SocketAddrV4, centrals: Vec<Ipv4Addr>) -> bool {
        let mut admitted = self.admitted.borrow_mut();
        if *admitted == centrals {
            return !centrals.is_empty();
        }
        let done = self.redirect.borrow_mut().as_mut().map(|redirect| redirect.admit(app, &centrals));
        match done {
            Some(Ok(())) => *admitted = centrals,
            Some(Err(why)) => eprintln!("Centrals come in through the pass-through port: {why}"),
            None => {}
        }
        !admitted.is_empty()
    }
}
