//! `update`: the new manifest is made of the one that the registry has, and signed here.

use bytes::Bytes;
use wayfare_protocol::{
    ids::HostId,
    manifest::Manifest,
    order::Action,
    suite::Dalek,
    time::Micros,
    trust::{Receiver, Signed, certificate::cloud_id},
};

use super::{
    Context, Failure, args,
    deploy::{MIB, by_time, read_module},
    order::{owner_key, record, said, send},
};
use crate::{api::shapes::NodeInfo, host::modules::module_digest};

pub(super) async fn update(context: &Context, args: args::Update) -> Result<(), Failure> {
    let module = args.module.as_deref().map(read_module).transpose()?;
    let (found, before) = record(context, &args.service).await?;
    let after = successor(&before, &args, module.as_deref())?;
    let secret = owner_key(context, args.owner_key.as_deref(), &found)?;
    let node: NodeInfo = context.client().get(&["node"], "").await?;
    let from = HostId::parse(&node.host).ok_or_else(|| Failure::other(format!("`{}` is no node's id", node.host)))?;
    let signed = Signed::sign::<Dalek>(&secret, before.service.registry, Receiver::Anyone, &after);
    let action = Action::Update { manifest: signed.hash(), keep: !args.fresh, from };
    let module = Bytes::from(module.unwrap_or_default());
    let wait = (args.timeout, !args.no_wait);
    let ordered = send(context, &secret, &before, action, Some(&signed), module, wait).await?;
    context.print(&ordered, |ordered| said(ordered, action))
}

/// The manifest that follows `before`: what was not named stays.
fn successor(before: &Manifest, args: &args::Update, module: Option<&[u8]>) -> Result<Manifest, Failure> {
    let mut after = before.clone();
    if let Some(module) = module {
        after.code = module_digest(module);
    }
    let required = &mut after.required;
    required.cpu_millicores = args.cpu.unwrap_or(required.cpu_millicores);
    required.memory_bytes = args.memory.map_or(required.memory_bytes, |mib| mib.saturating_mul(MIB));
    required.storage_bytes = args.storage.map_or(required.storage_bytes, |mib| mib.saturating_mul(MIB));
    required.bandwidth_bps = args.bandwidth.map_or(required.bandwidth_bps, |mbps| mbps.saturating_mul(1_000_000));
    after.max_rtt = args.max_rtt.map_or(after.max_rtt, Micros::from_millis);
    if args.any_cloud || !args.allow_clouds.is_empty() {
        after.allowed_clouds = args.allow_clouds.iter().map(|name| cloud_id(before.service.registry, name)).collect();
    }
    if args.any_region || !args.allow_regions.is_empty() {
        after.allowed_regions.clone_from(&args.allow_regions);
    }
    if after == *before && !args.fresh {
        let error = format!("`{}` runs this code under these terms already", before.name);
        return Err(Failure::setup(format!("{error}: name another module or option, or --fresh for an empty state")));
    }
    after.version = args.manifest_version.unwrap_or_else(|| by_time().max(before.version.saturating_add(1)));
    after.check().map_err(|reject| Failure::setup(format!("an --allow option: {reject}")))?;
    Ok(after)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use wayfare_protocol::{
        ids::{Digest, OwnerKey, RegistryId},
        manifest::{Durability, Resources, ServiceType, TokenPolicy, service_id},
    };

    use super::*;
    use crate::cli::args::Cli;

    fn manifest() -> Manifest {
        let (registry, owner) = (RegistryId([1; 32]), OwnerKey([2; 32]));
        let required = Resources { cpu_millicores: 100, memory_bytes: 64 * MIB, storage_bytes: 0, bandwidth_bps: 0 };
        Manifest {
            service: service_id(registry, owner, "kv"),
            name: "kv".to_owned(),
            owner,
            version: 7,
            code: Digest([3; 32]),
            tos: ServiceType::Request,
            required,
            max_rtt: Micros::from_millis(40),
            baseline: None,
            allowed_clouds: vec![cloud_id(registry, "fjord")],
            allowed_regions: Vec::new(),
            allowed_domains: Vec::new(),
            durability: Durability::Log,
            token_policy: TokenPolicy::Refuse,
        }
    }

    fn after(line: &str, module: Option<&[u8]>) -> Result<Manifest, Failure> {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            args::Command::Update(args) => successor(&manifest(), &args, module),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_named_stays_and_the_version_rises() {
        let found = after("wayfare update kv m", Some(b"module")).unwrap();
        assert!(found.version > 7 && found.code == module_digest(b"module"));
        assert_eq!(Manifest { version: 7, code: manifest().code, ..found }, manifest());
        let found = after("wayfare update kv --memory 128 --any-cloud --max-rtt 0 --manifest-version 9", None).unwrap();
        assert_eq!((found.version, found.required.memory_bytes, found.max_rtt), (9, 128 * MIB, Micros::ZERO));
        assert_eq!((found.allowed_clouds.len(), found.code), (0, manifest().code));
        let found = after("wayfare update kv --allow-cloud delta --allow-region eu", None).unwrap();
        assert_eq!(found.allowed_clouds, [cloud_id(RegistryId([1; 32]), "delta")]);
        assert_eq!(found.allowed_regions, ["eu"]);
    }

    #[test]
    fn an_update_to_the_same_is_refused_unless_the_state_is_to_go() {
        let failure = after("wayfare update kv", None).unwrap_err();
        assert!(failure.parts().0.contains("--fresh") && failure.parts().1 == 2);
        assert!(after("wayfare update kv --fresh", None).is_ok());
    }
}
