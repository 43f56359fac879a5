//! A simulated fleet, for `pannier central fleet`: msgpack in, msgpack out.

use pannier_central::fleet::{self, Parameters};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

#[pyfunction]
pub fn simulate_fleet(py: Python<'_>, parameters: &[u8]) -> PyResult<Vec<u8>> {
    let parameters: Parameters =
        rmp_serde::from_slice(parameters).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let outcome = py.detach(|| fleet::run(&parameters)).map_err(PyValueError::new_err)?;
    rmp_serde::to_vec_named(&outcome).map_err(|error| PyValueError::new_err(error.to_string()))
}
