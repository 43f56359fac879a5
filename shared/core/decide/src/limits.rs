//! Table `limits`, checked: what holds for calls to one service, and for what others ask of us.

use crate::breaker::FailurePolicy;
use crate::rules::within_a_day;
use crate::schema::limits::{Bulkhead, Inbound, RateLimit, Resources, Retry, Service, ServiceBreaker};

/// The shortest interval of a token bucket, milliseconds (Envoy's).
pub const SHORTEST_INTERVAL_MS: u64 = 50;

/// What holds for calls to one service.
#[derive(Debug, Default)]
pub struct Limits {
    /// Who takes endpoints out.
    pub failure: FailurePolicy,
    #[allow(missing_docs)]
    pub service_breaker: Option<ServiceBreaker>,
    /// Calls are counted by endpoint.
    pub counted: bool,
    /// What counts as slow, nanoseconds.
    pub slow_ns: u64,
    #[allow(missing_docs)]
    pub resources: Option<Resources>,
    #[allow(missing_docs)]
    pub retry: Option<Retry>,
    #[allow(missing_docs)]
    pub rate_limit: Option<RateLimit>,
    #[allow(missing_docs)]
    pub bulkhead: Option<Bulkhead>,
}

impl Limits {
    /// Checks one service's.
    ///
    /// # Errors
    /// One line that names the service and what does not hold.
    pub fn compile(name: &str, service: &Service) -> Result<Limits, String> {
        Self::build(service).map_err(|reason| format!("service {name:?}: {reason}"))
    }

    fn build(service: &Service) -> Result<Limits, String> {
        let failure = match (service.breaker, service.outlier) {
            (Some(_), Some(_)) => return Err("breaker and outlier exclude one another".into()),
            (Some(breaker), None) => {
                within_a_day("breaker.penalty_max", breaker.penalty_max_ms)?;
                if breaker.penalty_min_ms > breaker.penalty_max_ms || !(0.0..=1.0).contains(&breaker.jitter) {
                    return Err("breaker: penalty_min is over penalty_max, or jitter not within 0…1".into());
                }
                FailurePolicy::Breaker(breaker)
            }
            (None, Some(outlier)) => {
                within_a_day("outlier.max_ejection", outlier.max_ejection_ms)?;
                FailurePolicy::Outlier(outlier)
            }
            (None, None) => FailurePolicy::None,
        };
        if service.service_breaker.is_some_and(|breaker| breaker.slot as usize >= pannier_table::hot::SLOTS) {
            return Err("service_breaker: no such slot".into());
        }
        if let Some(retry) = &service.retry
            && (retry.backoff_min_ms > retry.backoff_max_ms || retry.body_limit > 1 << 20)
        {
            return Err("retry: backoff_min is over backoff_max, or body_limit over 1 MiB".into());
        }
        Ok(Limits {
            failure,
            service_breaker: service.service_breaker,
            counted: service.counted,
            slow_ns: service.slow_ms.saturating_mul(1_000_000),
            resources: service.resources,
            retry: service.retry.clone(),
            rate_limit: service.rate_limit.map(check_rate).transpose()?,
            bulkhead: service.bulkhead.map(check_bulkhead).transpose()?,
        })
    }
}

/// Checks what holds for others' requests.
///
/// # Errors
/// One line.
pub fn check_inbound(inbound: &Inbound) -> Result<(), String> {
    let named = |reason: String| format!("inbound: {reason}");
    inbound.rate_limit.map(check_rate).transpose().map_err(named)?;
    inbound.bulkhead.map(check_bulkhead).transpose().map_err(named)?;
    if let Some(shedding) = inbound.shedding
        && !(shedding.requests > 0 && shedding.sheddable <= shedding.default && (0.0..=1.0).contains(&shedding.default))
    {
        return Err("inbound: shedding.sheddable is over shedding.default, or one is not within 0…1".into());
    }
    Ok(())
}

fn check_rate(limit: RateLimit) -> Result<RateLimit, String> {
    if limit.interval_ms < SHORTEST_INTERVAL_MS || limit.max == 0 || limit.fill == 0 {
        return Err(format!("rate_limit: max and fill are at least 1, interval at least {SHORTEST_INTERVAL_MS} ms"));
    }
    Ok(limit)
}

fn check_bulkhead(bulkhead: Bulkhead) -> Result<Bulkhead, String> {
    within_a_day("bulkhead.wait", bulkhead.wait_ms)?;
    if bulkhead.concurrent == 0 { Err("bulkhead: concurrent is at least 1".into()) } else { Ok(bulkhead) }
}
