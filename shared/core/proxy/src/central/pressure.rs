//! (being written)
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    pub host_pressure: Option<f64>,
    pub cgroup_pressure: Option<f64>,
    pub throttled: Option<f64>,
    pub run_delay_ms: Option<f64>,
    pub idle: Option<f64>,
    pub cpus: Option<f64>,
    pub proxy_cpu_ns: u64,
    pub trouble: Vec<String>,
}
pub struct Pressure;
impl Pressure {
    pub fn new() -> Self {
        Pressure
    }
    pub fn read(&mut self, _: u64) -> Readings {
        Readings::default()
    }
}
