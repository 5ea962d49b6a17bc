//! `GET /v1/services/{name}/why`: why a service is where it is.

use axum::{
    Json,
    extract::{Path, State},
};
use wayfare_protocol::placement::{Decision, Explanation};

use super::{
    Api,
    error::Failure,
    shapes::{Decided, Why},
    show::{Answer, history, no_service},
};

/// Attempts that are shown, the last ones.
const MOVES_SHOWN: usize = 8;

pub(super) async fn why(State(api): Api, Path(wanted): Path<String>) -> Answer<Why> {
    let names = api.names.clone();
    let look = move |host: &mut wayfare_protocol::host::Host, now| {
        let service = host.find_service(&wanted).ok_or_else(|| no_service(host, now, &names, &wanted))?;
        let id = service.to_string();
        let view = host.services(now).into_iter().rfind(|view| view.service == id);
        let mut explanation = host.explain(now, service)?;
        name_here(host, now, &mut explanation);
        let mut decisions = host.decisions(service);
        decisions.iter_mut().for_each(|decision| name_here(host, now, &mut decision.explanation));
        Ok::<_, Failure>(Why {
            service: host.service_name(service),
            id,
            cloud: host.host_name(now, host.me()),
            host: host.me().to_string(),
            state: view.map(|view| view.state).unwrap_or_default(),
            cordoned: host.is_cordoned(),
            draining: host.is_draining(),
            since_us: host.since(service).map(|since| since.0),
            changes: explanation.changes(),
            now: explanation,
            decisions: decisions.into_iter().map(decided).collect(),
            moves: Vec::new(),
        })
    };
    let mut why = api.ask(look).await??;
    let of = history(&api).await?.into_iter().filter(|migration| migration.service_id == why.id);
    why.moves = of.collect();
    why.moves.drain(..why.moves.len().saturating_sub(MOVES_SHOWN));
    Ok(Json(why))
}

/// No advert of its own tells the machine its name.
pub(super) fn name_here(
    host: &wayfare_protocol::host::Host,
    now: wayfare_protocol::time::Now,
    explanation: &mut Explanation,
) {
    if let Some(here) = explanation.rows.iter_mut().find(|row| row.here && row.cloud.is_empty()) {
        here.cloud = host.host_name(now, here.host);
    }
}

fn decided(decision: Decision) -> Decided {
    let Decision { first, last, times, explanation } = decision;
    Decided { first_us: first.0, last_us: last.0, times, explanation }
}
