//! Clients that ask as fast as they get answers.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::bail;
use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;

use super::quantile;

/// What a number of connections got in a while.
#[derive(Debug)]
pub(super) struct Load {
    /// How long each request took, µs.
    times_us: Vec<f64>,
    took: Duration,
}

impl Load {
    /// How many requests were answered.
    pub(super) fn answered(&self) -> u64 {
        self.times_us.len() as u64
    }

    /// Answers per second.
    pub(super) fn per_s(&self) -> f64 {
        self.times_us.len() as f64 / self.took.as_secs_f64()
    }

    /// The time that a share of the requests did not exceed, µs; 0 if there were none.
    pub(super) fn quantile_us(&mut self, share: f64) -> f64 {
        quantile(&mut self.times_us, share).unwrap_or_default()
    }
}

/// `connections` clients of `server`, each of which asks for its next increment as soon as it has an answer, for `length`.
///
/// # Errors
/// A request that fails.
pub(super) async fn run(server: SocketAddr, connections: usize, length: Duration) -> anyhow::Result<Load> {
    let begun = Instant::now();
    let asking = (0..connections).map(|_| tokio::spawn(ask(server, begun + length)));
    let answered = try_join_all(asking).await?.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Load { times_us: answered.into_iter().flatten().collect(), took: begun.elapsed() })
}

/// One connection: increments until `end`, and how long each took, µs.
async fn ask(server: SocketAddr, end: Instant) -> anyhow::Result<Vec<f64>> {
    let stream = tokio::net::TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let mut times = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        sender.ready().await?;
        let request = Request::post("/count").header(hyper::header::HOST, "service").body(Empty::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        if !status.is_success() {
            bail!("a request failed: {status}");
        }
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    drop(sender);
    driving.abort();
    Ok(times)
}
