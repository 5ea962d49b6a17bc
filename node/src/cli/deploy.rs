//! `deploy`: the manifest is made and signed here, so the owner's key never leaves the owner.

use std::path::Path;

use bytes::Bytes;
use data_encoding::BASE64;
use hyper::Method;
use wayfare_protocol::{
    ids::{OwnerKey, RegistryId},
    limits::MODULE_BYTES_MAX,
    manifest::{Durability, Manifest, Resources, ServiceType, TokenPolicy, service_id},
    suite::{Dalek, Secret, Suite},
    time::Micros,
    trust::{Receiver, Signed, certificate::cloud_id},
    wire,
};

use super::{Context, Failure, args};
use crate::{
    api::{
        MANIFEST_HEADER,
        shapes::{Deployed, NodeInfo},
    },
    host::modules::module_digest,
    state::{self, StateError},
};

pub(super) const MIB: u64 = 1024 * 1024;

pub(super) async fn deploy(context: &Context, args: args::Deploy) -> Result<(), Failure> {
    let module = read_module(&args.module)?;
    let client = context.client();
    let node: NodeInfo = client.get(&["node"], "").await?;
    let registry = RegistryId::parse(&node.registry)
        .ok_or_else(|| Failure::other(format!("`{}` is no registry's id", node.registry)))?;
    let secret = owner_key(context, args.owner_key.as_deref())?;
    let manifest = manifest(&args, registry, OwnerKey(Dalek::public_key(&secret)), &module);
    manifest.check().map_err(|reject| Failure::setup(format!("--name or an --allow option: {reject}")))?;
    let signed = Signed::sign::<Dalek>(&secret, registry, Receiver::Anyone, &manifest);
    let header = BASE64.encode(&wire::encode(&signed));
    let headers = [(MANIFEST_HEADER, header.as_str()), ("content-type", "application/wasm")];
    let query = format!("timeout_s={}", args.timeout);
    let deployed: Deployed = client.call(Method::POST, &["deploy"], &query, &headers, Bytes::from(module)).await?;
    if let Some(warning) = &deployed.warning {
        eprintln!("warning: {}", super::table::printable(warning));
    }
    context.print(&deployed, |deployed| {
        let Deployed { service, id, epoch, cloud, .. } = deployed;
        format!("`{service}` runs on {cloud}: epoch {epoch}, id {id}\n")
    })
}

pub(super) fn read_module(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| {
        let what_to_do = "MODULE is the file of a WebAssembly module";
        Failure::setup(format!("cannot read {}: {error}: {what_to_do}", path.display()))
    };
    if std::fs::metadata(path).map_err(failed)?.len() > MODULE_BYTES_MAX {
        let limit = MODULE_BYTES_MAX / MIB;
        return Err(Failure::setup(format!("{} is longer than a module may be ({limit} MiB)", path.display())));
    }
    std::fs::read(path).map_err(failed)
}

/// The key that was named; or the directory's own, which is made if it is missing.
fn owner_key(context: &Context, named: Option<&Path>) -> Result<Secret, Failure> {
    let own = context.dir.owner_key_file();
    let path = named.unwrap_or(&own);
    match state::read_key(path) {
        Err(StateError::Missing { .. }) if named.is_none() => {
            let secret = state::create_key(path)?;
            eprintln!("made {}: it alone speaks for what is deployed with it; keep a copy", path.display());
            Ok(secret)
        }
        Err(StateError::Missing { .. }) => {
            Err(Failure::setup(format!("{} is missing: --owner-key names an existing key", path.display())))
        }
        other => Ok(other?),
    }
}

/// The version of a manifest that is signed now.
pub(super) fn by_time() -> u32 {
    u32::try_from(crate::clock::now().wall.0 / 1_000_000).unwrap_or(u32::MAX)
}

fn manifest(args: &args::Deploy, registry: RegistryId, owner: OwnerKey, module: &[u8]) -> Manifest {
    Manifest {
        service: service_id(registry, owner, &args.name),
        name: args.name.clone(),
        owner,
        version: args.manifest_version.unwrap_or_else(by_time),
        code: module_digest(module),
        tos: ServiceType::Request,
        required: Resources {
            cpu_millicores: args.cpu,
            memory_bytes: args.memory.saturating_mul(MIB),
            storage_bytes: args.storage.saturating_mul(MIB),
            bandwidth_bps: args.bandwidth.saturating_mul(1_000_000),
        },
        max_rtt: Micros::from_millis(args.max_rtt.unwrap_or(0)),
        baseline: None,
        allowed_clouds: args.allow_clouds.iter().map(|name| cloud_id(registry, name)).collect(),
        allowed_regions: args.allow_regions.clone(),
        allowed_domains: Vec::new(),
        durability: match args.durability {
            args::Durability::Log => Durability::Log,
            args::Durability::Memory => Durability::Memory,
        },
        token_policy: TokenPolicy::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{cli::args::Cli, state::StateDir};

    fn arguments(line: &str) -> args::Deploy {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            args::Command::Deploy(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_manifest_says_what_the_arguments_say() {
        let args = arguments("wayfare deploy m --name kv --memory 32 --allow-cloud fjord --max-rtt 40");
        let registry = RegistryId([1; 32]);
        let manifest = manifest(&args, registry, OwnerKey([2; 32]), b"module");
        assert_eq!(manifest.check(), Ok(()));
        assert_eq!(manifest.required.memory_bytes, 32 * MIB);
        assert_eq!(manifest.allowed_clouds, [cloud_id(registry, "fjord")]);
        assert_eq!((manifest.max_rtt, manifest.code), (Micros::from_millis(40), module_digest(b"module")));
        assert_eq!(manifest.durability, Durability::Log, "by default");
    }

    #[test]
    fn only_who_asks_for_it_gets_a_service_in_memory_alone() {
        let args = arguments("wayfare deploy m --name kv --durability memory");
        let manifest = manifest(&args, RegistryId([1; 32]), OwnerKey([2; 32]), b"module");
        assert_eq!(manifest.durability, Durability::Memory);
    }

    #[test]
    fn the_owners_key_is_made_once_and_a_named_one_must_exist() {
        let temp = tempfile::tempdir().unwrap();
        let context = Context { dir: StateDir::new(temp.path()), json: false };
        let made = owner_key(&context, None).unwrap();
        assert_eq!(owner_key(&context, None).unwrap(), made);
        let failure = owner_key(&context, Some(&temp.path().join("other"))).unwrap_err();
        assert!(failure.parts().0.contains("--owner-key") && failure.parts().1 == 2);
    }
}
