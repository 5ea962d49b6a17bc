//! Asks a `kv` for what it holds: before the run its counter, after it everything that the client has written.

use std::time::Instant;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use hyper::Method;

use super::http::{Http, key_path};
use super::ledger::{Outcome, ReadBack};
use super::{LoadConfig, LoadError};

/// How many keys are read at a time.
const READS_AT_A_TIME: usize = 16;
/// How often a read is tried again.
const TRIES: usize = 3;
/// The pause between tries.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// The counter before the first request, as soon as the service answers.
pub(super) async fn first_count(http: &Http, config: &LoadConfig) -> Result<u64, LoadError> {
    let give_up = Instant::now() + config.timeout;
    loop {
        match count(http).await {
            Ok(count) => return Ok(count),
            Err(reason) if Instant::now() + PAUSE >= give_up => {
                return Err(LoadError::NoCounter { gateway: config.gateway, reason });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Everything that the audit compares, or why it could not be read.
pub(super) async fn read_back(http: &Http, keys: Vec<usize>) -> Result<ReadBack, String> {
    let keys = stream::iter(keys)
        .map(|key| async move { Ok::<_, String>((key, read(http, &key_path(key)).await?)) })
        .buffer_unordered(READS_AT_A_TIME)
        .try_collect()
        .await?;
    let digest = read(http, "/digest").await?.ok_or("GET /digest: not found")?;
    Ok(ReadBack { count: count_again(http).await?, keys, digest: digest.trim().to_owned() })
}

async fn count_again(http: &Http) -> Result<u64, String> {
    let text = read(http, "/count").await?.ok_or("GET /count: not found")?;
    text.trim().parse().map_err(|_| "GET /count: no number".to_owned())
}

async fn count(http: &Http) -> Result<u64, String> {
    let text = read_once(http, "/count").await?.ok_or("not found")?;
    text.trim().parse().map_err(|_| "no number".to_owned())
}

async fn read(http: &Http, path: &str) -> Result<Option<String>, String> {
    let mut failure = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        match read_once(http, path).await {
            Ok(text) => return Ok(text),
            Err(reason) => failure = format!("GET {path}: {reason}"),
        }
    }
    Err(failure)
}

async fn read_once(http: &Http, path: &str) -> Result<Option<String>, String> {
    let ended = http.ask(Method::GET, path, String::new()).await;
    match ended.outcome {
        Outcome::Answered { found, body } => Ok(found.then_some(body)),
        Outcome::Unknown | Outcome::NotSent => Err(ended.failure.unwrap_or_default()),
    }
}
