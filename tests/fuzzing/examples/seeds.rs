//! Writes the seeds of every target, one file each, into `DIR/TARGET/`: `cargo run -p wayfare-fuzzing --example seeds -- DIR`.

use std::{env, fs, io, path::PathBuf};

use wayfare_fuzzing::TARGETS;

fn main() -> io::Result<()> {
    let dir = env::args_os().nth(1).ok_or_else(|| io::Error::other("say where to: seeds DIR"))?;
    for target in TARGETS {
        let dir = PathBuf::from(&dir).join(target.name);
        fs::create_dir_all(&dir)?;
        let seeds = (target.seeds)();
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(dir.join(format!("seed-{number:03}")), seed)?;
        }
        println!("{:16} {} seeds", target.name, seeds.len());
    }
    Ok(())
}
