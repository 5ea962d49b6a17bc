//! What the protocol demands of a machine for one migration, each primitive timed where the bench runs.

use std::{fs::OpenOptions, hint::black_box, io::Write, path::Path, time::Instant};

use wayfare_net::Net;
use wayfare_protocol::{
    ids::Digest,
    suite::{Dalek, Secret, Suite},
};

use super::quantile;

/// How often each primitive occurs between the decision to move and the first instruction at the target, on the way that
/// nothing can be taken off. Counted in `protocol`: see each method that is named.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// 2, 3, 4, 5, 6, 7; consent and completion with two each; 11.
    pub signatures: u32,
    /// R on 2: it, the advert, the certificate in it. A on 3. B on 4: 3, 4, the manifest. R on 5. B on 6. A on 7: 7, 6.
    /// B on consent: two. R on 10: two of 10, two of the consent. B on 11.
    pub verifications: u32,
    /// g^x, g^y, and the public half of vkNew.
    pub key_generations: u32,
    /// Both ends.
    pub agreements: u32,
    /// 2–3; 4–7 with 5–6 in it; 8, 10 and 11, half a round trip each; and the records' stream, opened before.
    pub round_trips: f64,
    /// R on 3, 6 and 11; B on 5, 9 and 11; A on the consent.
    pub syncs: u32,
}

/// See [`Counts`].
pub const COUNTS: Counts =
    Counts { signatures: 11, verifications: 18, key_generations: 3, agreements: 2, round_trips: 4.5, syncs: 7 };

/// Medians in µs.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// ed25519, a message of 300 bytes.
    pub sign_us: f64,
    /// ed25519, strict, a message of 300 bytes.
    pub verify_us: f64,
    /// A public key from its secret.
    pub keygen_us: f64,
    /// X25519 and HKDF.
    pub dh_us: f64,
    /// A frame there and back on an open stream.
    pub round_trip_us: f64,
    /// Append of 500 bytes and fdatasync.
    pub sync_us: f64,
}

impl Floor {
    /// Measures each primitive `rounds` times, on `dir`'s disk and between two connected nodes.
    ///
    /// # Errors
    /// What the disk or the mesh reports.
    pub async fn measure(dir: &Path, from: &Net, to: &Net, rounds: usize) -> anyhow::Result<Self> {
        let secret = Secret::new([7; 32]);
        let share = Dalek::dh_public(&secret);
        let (verify_us, sign_us) = signatures_us(rounds);
        let keygen_us = median(rounds, || {
            black_box(Dalek::dh_public(black_box(&secret)));
        });
        let dh_us = median(rounds, || drop(black_box(Dalek::agree(&secret, &share, &Digest([1; 32])))));
        let sync_us = sync_us(dir, rounds)?;
        let (host, addresses) = (to.host_id(), to.listen_addresses());
        from.probe(host, &addresses).await?;
        let mut trips = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            trips.push(from.probe(host, &addresses).await?.as_secs_f64() * 1e6);
        }
        let round_trip_us = quantile(&mut trips, 0.5).unwrap_or_default();
        Ok(Self { sign_us, verify_us, keygen_us, dh_us, round_trip_us, sync_us })
    }

    /// Each primitive's smaller time.
    pub fn smaller(&self, other: &Self) -> Self {
        Self {
            sign_us: self.sign_us.min(other.sign_us),
            verify_us: self.verify_us.min(other.verify_us),
            keygen_us: self.keygen_us.min(other.keygen_us),
            dh_us: self.dh_us.min(other.dh_us),
            round_trip_us: self.round_trip_us.min(other.round_trip_us),
            sync_us: self.sync_us.min(other.sync_us),
        }
    }

    /// The least that one migration can take, µs: everything in sequence, nothing else.
    pub fn total_us(&self) -> f64 {
        f64::from(COUNTS.signatures) * self.sign_us
            + f64::from(COUNTS.verifications) * self.verify_us
            + f64::from(COUNTS.key_generations) * self.keygen_us
            + f64::from(COUNTS.agreements) * self.dh_us
            + COUNTS.round_trips * self.round_trip_us
            + f64::from(COUNTS.syncs) * self.sync_us
    }
}

/// The medians of verifying a signature of 300 bytes and of making one, µs.
pub fn signatures_us(rounds: usize) -> (f64, f64) {
    let (secret, message) = (Secret::new([7; 32]), [9; 300]);
    let (public, signature) = (Dalek::public_key(&secret), Dalek::sign(&secret, &message));
    let sign_us = median(rounds, || {
        black_box(Dalek::sign(&secret, black_box(&message)));
    });
    let verify_us = median(rounds, || {
        black_box(Dalek::verify(&public, black_box(&message), &signature));
    });
    (verify_us, sign_us)
}

/// The median of appending 500 bytes to a file in `dir` and syncing them, µs.
///
/// # Errors
/// What the disk reports.
pub fn sync_us(dir: &Path, rounds: usize) -> std::io::Result<f64> {
    let mut file = OpenOptions::new().create(true).append(true).open(dir.join("floor"))?;
    let mut failed = None;
    let sync_us = median(rounds, || {
        if let Err(error) = file.write_all(&[3; 500]).and_then(|()| file.sync_data()) {
            failed = Some(error);
        }
    });
    failed.map_or(Ok(sync_us), Err)
}

fn median(rounds: usize, mut primitive: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let begun = Instant::now();
            primitive();
            begun.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    quantile(&mut times, 0.5).unwrap_or_default()
}
