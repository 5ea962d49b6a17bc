//! What is the same for every process: what it is, and since when.

use std::time::Instant;

use prometheus_client::registry::Registry;

use crate::instruments::{GaugeF64, Gauges, Register};

/// A process's build and uptime.
#[derive(Clone, Debug)]
pub struct Process {
    began: Instant,
    uptime: GaugeF64,
}

impl Process {
    /// Registers them. `program` is the binary's name, `role` what it was started as.
    pub fn register(metrics: &mut Registry, program: &'static str, role: &'static str, version: &'static str) -> Self {
        let build = Gauges::<3>::default();
        build.get_or_create(&[("program", program), ("role", role), ("version", version)]).set(1);
        metrics.add("wayfare_build_info", "Always 1; the labels say what runs", &build);
        let process = Self { began: Instant::now(), uptime: GaugeF64::default() };
        metrics.add("wayfare_process_uptime_seconds", "Since this node or registry was started", &process.uptime);
        process
    }

    /// To be called before each scrape.
    pub fn refresh(&self) {
        self.uptime.set(self.began.elapsed().as_secs_f64());
    }
}
