//! Each target holds on its corpus, and on as many inputs made from that, the same ones each time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use pannier_decide::random::Random;
use pannier_fuzz::mutate::mutated;
use pannier_fuzz::{TARGETS, target};

const INPUTS: usize = 20_000;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn holds(name: &str) {
    let (run, corpus) = (target(name).unwrap(), corpus(name));
    assert!(corpus.len() >= 3, "{name} has too small a corpus to begin with");
    let mut random = Random::new(name.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte)));
    let made = (0..INPUTS).map(|_| mutated(&corpus, &mut random));
    for input in corpus.iter().cloned().chain(made) {
        if let Err(reason) = catch_unwind(AssertUnwindSafe(|| run(&input))) {
            let text = reason.downcast_ref::<&str>().map(ToString::to_string);
            let reason = text.or_else(|| reason.downcast_ref::<String>().cloned()).unwrap_or_default();
            panic!("{name}: {reason}\n  input: b\"{}\"", input.escape_ascii());
        }
    }
}

#[test]
fn requests() {
    holds("request");
}

#[test]
fn responses() {
    holds("response");
}

#[test]
fn chunked_bodies() {
    holds("chunked");
}

#[test]
fn relayed_bodies() {
    holds("relay");
}

#[test]
fn authorities() {
    holds("authority");
}

#[test]
fn values_of_fields() {
    holds("values");
}

#[test]
fn payloads_of_tables() {
    holds("tables");
}

#[test]
fn access_log_records() {
    holds("access_log");
}

#[test]
fn segments_of_shared_memory() {
    holds("segments");
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut folders: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    let mut targets: Vec<_> = TARGETS.iter().map(|(name, _)| name.to_string()).collect();
    targets.sort();
    assert_eq!(folders, targets);
}
