//! The Central Mesh's controller on a clock that Python owns: `pannier central simulate`, and `validate`.

use pannier_central::config::Config;
use pannier_central::controller::{Controller, Offer};
use pannier_central::sample::Sample;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The map `controller` of the table `central`.
fn checked(config: &[u8]) -> PyResult<Config> {
    let config: Config = rmp_serde::from_slice(config).map_err(|e| PyValueError::new_err(e.to_string()))?;
    config.check().map_err(PyValueError::new_err)?;
    Ok(config)
}

#[pyfunction]
pub fn central_check(config: &[u8]) -> PyResult<()> {
    checked(config).map(|_| ())
}

#[pyclass(frozen, get_all, module = "pannier._native")]
pub struct CentralDecision {
    weight: f64,
    state: &'static str,
    reason: &'static str,
    reversals: u64,
    starving: bool,
}

#[pyclass(module = "pannier._native")]
pub struct CentralController {
    controller: Controller,
}

#[pymethods]
impl CentralController {
    #[new]
    fn new(config: Option<&[u8]>, seed: u64) -> PyResult<Self> {
        let config = config.map_or_else(|| Ok(Config::default()), checked)?;
        Ok(CentralController { controller: Controller::new(config, seed) })
    }

    #[pyo3(signature = (now_ms, *, host_pressure=None, cgroup_pressure=None, throttled=None, queue_wait_ms=None, idle=None,
                        returning=0.0, usable=true, limit=100.0, forced=None))]
    #[allow(clippy::too_many_arguments)] // All but the first by keyword: the fields of a sample and of an offer.
    fn step(
        &mut self,
        now_ms: u64,
        host_pressure: Option<f64>,
        cgroup_pressure: Option<f64>,
        throttled: Option<f64>,
        queue_wait_ms: Option<f64>,
        idle: Option<f64>,
        returning: f64,
        usable: bool,
        limit: f64,
        forced: Option<f64>,
    ) -> CentralDecision {
        let run_delay_ms = None;
        let sample = Sample { host_pressure, cgroup_pressure, throttled, run_delay_ms, queue_wait_ms, idle, returning };
        let decision = self.controller.step(now_ms, &sample, &Offer { usable, limit, forced });
        CentralDecision {
            weight: decision.weight,
            state: decision.state.name(),
            reason: decision.reason.name(),
            reversals: decision.reversals,
            starving: decision.starving,
        }
    }
}
