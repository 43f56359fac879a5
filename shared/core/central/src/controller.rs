//! The weight: how many points of what could leave this host do leave it.
//!
//! | state | what happens | next | weight |
//! | --- | --- | --- | --- |
//! | local | the enter rule holds, a way out is open, the dwell is over | shifted | |
//! | shifted | an input is hot | | + `step_up` a tick |
//! | shifted | all calm for `calm_ms` with the returning load added back, the dwell is over | returning | |
//! | returning | calm | | − `step_down` a second |
//! | returning | the enter rule holds, a way out is open, the dwell is over | shifted | |
//! | returning | weight 0 | local | |
//! | any | hot by a threshold's share, but not calm | | stays |
//! | any | tokens allow less | | less, at once |
//! | any | no Central can be used | | 0, at once |
//! | any | forced | shifted, local at 0 | that, at once |
//!
//! A *reversal* is local or returning → shifted and shifted → returning. Each begins a dwell, drawn once, within which there
//! is no other. A Central that goes and comes is none, and neither is a force: the state remembers what the host wants, and
//! the weight says what it gets. From weight 0 it takes the whole rule to rise, on from there one hot tick.
//!
//! A clock that jumps, or ticks that stay away for over two seconds, make the windows empty and move nothing. A host on
//! which nothing can be read counts as calm: it never starts to shift, and work that is away comes home slowly, since
//! nobody could ever say that it may.

use crate::config::Config;
use crate::pause::Pause;
use crate::random::Random;
use crate::sample::{INPUTS, Judged, Sample};
use crate::window::{Clock, Passed, Window};

/// What the way out of this host allows at the moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// A Central can be reached, and takes work.
    pub usable: bool,
    /// Points that tokens allow, 0…100.
    pub limit: f64,
    /// A weight that somebody asked for, in points.
    pub forced: Option<f64>,
}

/// Where the work is, or is going.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum State {
    #[default]
    Local,
    Shifted,
    Returning,
}

/// Why the weight is what it is. The controller gives those down to `Off`; what is below them only the caller can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing speaks against working here: it does, or it is coming back.
    Calm,
    /// This input is hot, and the work leaves or has left.
    HostPressure,
    /// This input is hot, and the work leaves or has left.
    CgroupPressure,
    /// This input is hot, and the work leaves or has left.
    Throttled,
    /// This input is hot, and the work leaves or has left.
    QueueWait,
    /// Somebody asked for this weight.
    Forced,
    /// There is no Central that takes work, or there was none until a moment ago.
    CentralDown,
    /// More would leave than there are tokens for.
    NoTokens,
    /// Neither hot for long enough nor calm for long enough: the weight stays.
    Holding,
    /// The work would turn around, but the last time is not long enough ago.
    Dwelling,
    /// None of the inputs can be read.
    Off,
    /// Answers take too long.
    CentralSlow,
    /// None is known.
    NoCentral,
    /// The Central does not have this host's policy.
    PolicyUnknown,
}

/// What to do until the next tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Points of what could leave, 0…100.
    pub weight: f64,
    /// Where the work is, or is going.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// How often the work has turned around so far.
    pub reversals: u64,
    /// The enter rule holds: whoever has no way out sheds.
    pub starving: bool,
}

impl State {
    /// As in the live state.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Local => "local",
            State::Shifted => "shifted",
            State::Returning => "returning",
        }
    }
}

impl Reason {
    /// As in the live state.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::Calm => "calm",
            Reason::HostPressure => "host-pressure",
            Reason::CgroupPressure => "cgroup-pressure",
            Reason::Throttled => "throttled",
            Reason::QueueWait => "queue-wait",
            Reason::Forced => "forced",
            Reason::CentralDown => "central-down",
            Reason::NoTokens => "no-tokens",
            Reason::Holding => "holding",
            Reason::Dwelling => "dwelling",
            Reason::Off => "off",
            Reason::CentralSlow => "central-slow",
            Reason::NoCentral => "no-central",
            Reason::PolicyUnknown => "policy-unknown",
        }
    }
}

const INPUT_REASONS: [Reason; INPUTS] =
    [Reason::HostPressure, Reason::CgroupPressure, Reason::Throttled, Reason::QueueWait];

/// One host's.
#[derive(Clone, Debug)]
pub struct Controller {
    config: Config,
    random: Random,
    clock: Clock,
    window: Window,
    pause: Pause,
    state: State,
    weight: f64,
    reversals: u64,
    /// All has been calm for so long.
    calm_ms: u64,
    /// No reversal for so long.
    dwell_ms: u64,
    forced: bool,
}

/// What a step knows before it decides.
struct Facts {
    judged: Judged,
    passed: Passed,
    /// By input: for how long it was hot lately.
    held: [u64; INPUTS],
    /// The enter rule.
    starving: bool,
    /// Calm for long enough.
    settled: bool,
    /// The Central may be given work.
    open: bool,
    /// Points that may leave at the most.
    limit: f64,
}

impl Controller {
    /// A host whose work is all its own. `seed` is for jitter; `config` has been checked.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        Controller {
            config,
            random: Random::new(seed),
            clock: Clock::default(),
            window: Window::default(),
            pause: Pause::default(),
            state: State::Local,
            weight: 0.0,
            reversals: 0,
            calm_ms: 0,
            dwell_ms: 0,
            forced: false,
        }
    }

    /// A host of whose work so many points are away already: another process decided that, and this one goes on.
    #[must_use]
    pub fn resumed(config: Config, seed: u64, weight: f64) -> Self {
        let mut controller = Controller::new(config, seed);
        let weight = if weight.is_nan() { 0.0 } else { weight.clamp(0.0, 100.0) };
        if weight > 0.0 {
            controller.state = State::Shifted;
            controller.weight = weight;
            controller.dwell_ms = controller.random.spread(config.dwell_ms, config.jitter);
        }
        controller
    }

    /// Goes on under other numbers: the weight stays, what was hot by the old ones is forgotten.
    pub fn reconfigure(&mut self, config: Config) {
        self.config = config;
        self.window.clear();
        self.calm_ms = 0;
        self.dwell_ms = self.dwell_ms.min(config.dwell_ms);
    }

    /// One tick. `now_ms` is any clock that goes forward; `sample` is what was measured since the last tick.
    pub fn step(&mut self, now_ms: u64, sample: &Sample, offer: &Offer) -> Decision {
        let facts = self.observe(now_ms, sample, offer);
        let forced = offer.forced.filter(|weight| !weight.is_nan());
        if let Some(weight) = forced {
            self.force(weight.max(0.0).min(facts.limit));
        } else {
            if self.forced {
                self.release(&facts);
            }
            self.turn(&facts);
            self.weight = self.moved(&facts).min(facts.limit).max(0.0);
            if self.state == State::Returning && self.weight == 0.0 {
                self.state = State::Local;
            }
        }
        Decision {
            weight: self.weight,
            state: self.state,
            reason: self.reason(&facts, forced, offer.usable),
            reversals: self.reversals,
            starving: facts.starving,
        }
    }

    fn observe(&mut self, now_ms: u64, sample: &Sample, offer: &Offer) -> Facts {
        let enter = self.config.enter;
        let passed = self.clock.tick(now_ms);
        let judged = Judged::of(sample, &self.config);
        if passed.jumped {
            self.window.clear();
            self.calm_ms = 0;
        }
        self.window.push(passed.ms, judged.exceeded(), enter.within_ms);
        self.calm_ms = if judged.calm { self.calm_ms.saturating_add(passed.ms) } else { 0 };
        self.dwell_ms = self.dwell_ms.saturating_sub(passed.ms);
        self.pause.tick(passed.ms, offer.usable, &mut self.random);
        let held = self.window.held(enter.within_ms);
        Facts {
            judged,
            passed,
            held,
            starving: held.iter().any(|held| *held > 0 && *held >= enter.holds_ms),
            settled: self.calm_ms >= self.config.leave.calm_ms,
            open: self.pause.over(),
            limit: if offer.usable && offer.limit > 0.0 { offer.limit.min(100.0) } else { 0.0 },
        }
    }

    fn force(&mut self, weight: f64) {
        self.forced = true;
        self.weight = weight;
        self.state = if weight > 0.0 { State::Shifted } else { State::Local };
    }

    /// Nobody asks for a weight any more: home at once if the host is calm, else on from here.
    fn release(&mut self, facts: &Facts) {
        self.forced = false;
        if facts.judged.calm && !facts.starving {
            self.weight = 0.0;
        }
        self.state = if self.weight > 0.0 { State::Shifted } else { State::Local };
    }

    fn turn(&mut self, facts: &Facts) {
        let next = match self.state {
            State::Local | State::Returning if facts.starving && facts.open && facts.limit > 0.0 => State::Shifted,
            State::Shifted if facts.settled && !facts.starving => State::Returning,
            _ => return,
        };
        if self.dwell_ms == 0 {
            self.state = next;
            self.reversals += 1;
            self.dwell_ms = self.random.spread(self.config.dwell_ms, self.config.jitter);
        }
    }

    fn moved(&self, facts: &Facts) -> f64 {
        let rising = if self.weight > 0.0 { facts.judged.hot() } else { facts.starving };
        match self.state {
            _ if facts.passed.ms == 0 => self.weight,
            State::Shifted if rising && facts.open => self.weight + self.config.step_up,
            State::Returning if facts.judged.calm => {
                self.weight - self.config.step_down * facts.passed.ms as f64 / 1_000.0
            }
            _ => self.weight,
        }
    }

    fn reason(&self, facts: &Facts, forced: Option<f64>, usable: bool) -> Reason {
        let wanted = forced.map_or(facts.starving || self.state == State::Shifted, |weight| weight > 0.0);
        let hot = facts.judged.hot();
        match self.state {
            _ if wanted && (!usable || forced.is_none() && !facts.open) => Reason::CentralDown,
            _ if forced.is_some_and(|weight| weight.min(100.0) > facts.limit) => Reason::NoTokens,
            _ if forced.is_some() => Reason::Forced,
            _ if facts.judged.blind() => Reason::Off,
            State::Local if facts.starving && facts.limit == 0.0 => Reason::NoTokens,
            State::Shifted if (hot || facts.starving) && facts.limit < 100.0 && self.weight >= facts.limit => {
                Reason::NoTokens
            }
            State::Shifted if hot || facts.starving => self.hottest(facts),
            State::Shifted if facts.settled => Reason::Dwelling,
            State::Local | State::Returning if facts.starving => Reason::Dwelling,
            State::Local if !hot => Reason::Calm,
            State::Returning if facts.judged.calm => Reason::Calm,
            _ => Reason::Holding,
        }
    }

    /// The input that is farthest beyond its threshold, or was hot for longest if none is now.
    fn hottest(&self, facts: &Facts) -> Reason {
        let loads = facts.judged.load.map(|load| load.unwrap_or(0.0));
        let held = facts.held.map(|ms| ms as f64);
        let by = if facts.judged.hot() { loads } else { held };
        let worst = INPUT_REASONS.into_iter().zip(by).max_by(|(_, a), (_, b)| a.total_cmp(b));
        worst.map_or(Reason::Holding, |(reason, _)| reason)
    }
}
