//! `pannier._native`: the shared-memory segments and the validation of tables, for Python. No logic of its own.

use pyo3::prelude::*;

mod central;
mod counters;
mod fleet;
mod hot;
mod rings;
mod tables;

#[pymodule]
mod _native {
    use super::{PyModule, PyModuleMethods, PyResult, counters, histogram_bounds, tables};
    use pyo3::Bound;

    #[pymodule_export]
    use super::central::{CentralController, CentralDecision, central_check};
    #[pymodule_export]
    use super::counters::{Counters, EndpointCounts, Enrolment, Gauge, Series};
    #[pymodule_export]
    use super::fleet::simulate_fleet;
    #[pymodule_export]
    use super::hot::{HotWord, HotWords, monotonic_ms};
    #[pymodule_export]
    use super::rings::{Drained, Rings, Span};
    #[pymodule_export]
    use super::tables::{TableReader, TableWriter, initialise, validate};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("SEGMENTS", tables::segments())?;
        module.add("TABLES", tables::kinds())?;
        module.add("CELLS", counters::cells())?;
        let (conventional, fine) = histogram_bounds();
        module.add("BUCKET_BOUNDS_SECONDS", conventional)?;
        module.add("FINE_BOUNDS_SECONDS", fine)
    }
}

fn histogram_bounds() -> (Vec<f64>, Vec<f64>) {
    use pannier_table::histogram;
    let conventional = histogram::BOUNDS_US.iter().map(|us| *us as f64 / 1e6).collect();
    let fine = histogram::fine_bounds_ns().iter().map(|ns| *ns as f64 / 1e9).collect();
    (conventional, fine)
}
