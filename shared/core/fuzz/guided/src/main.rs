//! libFuzzer around one target, which `PANNIER_FUZZ` names: one program for all, since linking takes longer than choosing.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<pannier_fuzz::Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("PANNIER_FUZZ").unwrap_or_default();
        match pannier_fuzz::target(&name) {
            Some(target) => TARGET.get_or_init(|| target),
            None => {
                let known: Vec<_> = pannier_fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
                eprintln!("PANNIER_FUZZ={name:?}: expected one of {}", known.join(", "));
                std::process::exit(64)
            }
        };
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(data);
        }
    }
);
