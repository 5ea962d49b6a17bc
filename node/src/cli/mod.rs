//! The `wayfare` command. `args` is its grammar; `setup` has `init` and `run`; `deploy` signs and sends; `show` prints what
//! a running node says.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{CommandFactory, Parser};
use serde::Serialize;
use wayfare_net::{Connector, Witness};

use crate::{api::client::Client, state::StateDir};

mod args;
mod deploy;
mod doctor;
mod drain;
mod failure;
mod order;
mod project;
mod setup;
mod show;
mod table;
mod update;
mod watch;
mod why;

use args::{Cli, Command};
use failure::Failure;

/// How long what still blocks may take when the process ends.
const LINGER: Duration = Duration::from_secs(1);

/// Does what the arguments say.
pub(crate) fn run(
    args: impl IntoIterator<Item = OsString>,
    connector: Arc<dyn Connector>,
    witness: Option<Arc<dyn Witness>>,
) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout, the rest to stderr; if neither can be written, nobody reads.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match execute(cli, Given { connector, witness }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// What every command gets.
struct Context {
    dir: StateDir,
    json: bool,
}

/// What is given to a node beside its directory.
struct Given {
    /// Through which it dials.
    connector: Arc<dyn Connector>,
    /// Who watches it.
    witness: Option<Arc<dyn Witness>>,
}

fn state_dir(dir: Option<PathBuf>) -> StateDir {
    let named = dir.or_else(|| std::env::var_os("WAYFARE_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from));
    StateDir::new(named.unwrap_or_else(|| PathBuf::from("wayfare-node")))
}

fn execute(cli: Cli, given: Given) -> Result<(), Failure> {
    let context = Context { dir: state_dir(cli.dir), json: cli.json };
    if let Command::Init(args) = cli.command {
        return setup::init(&context, args);
    }
    let mut builder = match cli.command {
        Command::Run(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime =
        builder.enable_all().build().map_err(|error| Failure::other(format!("no threads or timers: {error}")))?;
    let result = runtime.block_on(command(&context, cli.command, given));
    runtime.shutdown_timeout(LINGER);
    result
}

async fn command(context: &Context, command: Command, given: Given) -> Result<(), Failure> {
    match command {
        Command::Init(args) => setup::init(context, args),
        Command::Run(args) => setup::run(context, args, given).await,
        Command::New(args) => project::new(context, args),
        Command::Deploy(args) => deploy::deploy(context, args).await,
        Command::Stop(args) => order::stop(context, args).await,
        Command::Start(args) => order::start(context, args).await,
        Command::Update(args) => update::update(context, args).await,
        Command::Remove(args) => order::remove(context, args).await,
        Command::Clouds => show::clouds(context).await,
        Command::Services => show::services(context).await,
        Command::Rtt => show::rtt(context).await,
        Command::Move(args) => show::move_service(context, args).await,
        Command::Why(args) => why::why(context, &args.service).await,
        Command::Migrations(args) if args.watch => watch::watch(context).await,
        Command::Migrations(_) => show::migrations(context).await,
        Command::Trace(args) => show::trace(context, &args.id).await,
        Command::Logs(args) => show::logs(context, &args.service, args.follow).await,
        Command::Rejects => show::rejects(context).await,
        Command::Cordon => show::cordon(context, true).await,
        Command::Uncordon => show::cordon(context, false).await,
        Command::Drain(args) => drain::drain(context, args).await,
        Command::Doctor(args) => doctor::doctor(context, args).await,
        Command::Completions(args) => completions(args.shell),
    }
}

impl Context {
    fn client(&self) -> Client {
        Client::new(self.dir.socket())
    }

    /// Prints one of many results, on a line of its own if it is JSON.
    fn print_line<T: Serialize>(&self, result: &T, human: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if !self.json {
            return out(&human(result));
        }
        let line = serde_json::to_string(result).map_err(|error| Failure::other(error.to_string()))?;
        out(&(line + "\n"))
    }

    /// Prints a result: as JSON, or as `human` says it.
    fn print<T: Serialize>(&self, result: &T, human: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if self.json { out(&(json_pretty(result)? + "\n")) } else { out(&human(result)) }
    }
}

/// What completes this command's words.
fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "wayfare", &mut script);
    out(&String::from_utf8_lossy(&script))
}

fn json_pretty(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::other(error.to_string()))
}

/// Writes to stdout. That nobody reads it ends the command, quietly.
fn out(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(table::printable(text).as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::silent(),
        _ => Failure::other(format!("cannot write to stdout: {error}")),
    })
}
