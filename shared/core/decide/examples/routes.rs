//! What ten thousand routes cost: compiling them, and finding the one that matches. Prints one line of JSON.

use std::hint::black_box;
use std::time::Instant;

use pannier_decide::live::Live;
use pannier_decide::matching::View;
use pannier_decide::policy::{Policy, Tables, floor};
use pannier_decide::route;
use pannier_decide::schema::routes::{Match, Routes, Rule};

const ROUTES: usize = 10_000;
const LOOKS: usize = 1_000_000;

fn main() -> Result<(), String> {
    let rules = (0..ROUTES).map(|number| {
        let one = match number % 3 {
            0 => Match { path: Some(format!("/exact/{number}/item")), ..Match::default() },
            1 => Match { prefix: Some(format!("/prefix/{number}")), ..Match::default() },
            _ => Match { prefix: Some(format!("/both/{number}")), method: Some("GET".into()), ..Match::default() },
        };
        let host = if number % 2 == 0 { "*" } else { "orders" };
        Rule { name: format!("r{number}"), hosts: vec![host.into()], matches: vec![one], ..Rule::default() }
    });
    let mut tables = Tables::of(floor());
    tables.routes = Some(Routes { rules: rules.collect(), ..Routes::default() });
    let began = Instant::now();
    let policy = Policy::compile(&tables, &Live::default())?;
    let compiled = began.elapsed();
    let targets: Vec<String> = (0..1_000)
        .map(|i| i * 7 % ROUTES)
        .map(|number| match number % 3 {
            0 => format!("/exact/{number}/item"),
            1 => format!("/prefix/{number}/a/b?c=d"),
            _ => format!("/both/{number}/e"),
        })
        .collect();
    let (mut found, began) = (0, Instant::now());
    for target in targets.iter().cycle().take(LOOKS) {
        let view = View { host: "orders", port: 80, method: "GET", target, fields: &[] };
        found += usize::from(route::outbound(black_box(&policy), &view, || 0).rule.is_some());
    }
    let match_ns = began.elapsed().as_nanos() as f64 / LOOKS as f64;
    if found != LOOKS {
        return Err(format!("{found} of {LOOKS} were found"));
    }
    println!("{{\"routes\":{ROUTES},\"compile_ms\":{:.1},\"match_ns\":{match_ns:.0}}}", compiled.as_secs_f64() * 1e3);
    Ok(())
}
