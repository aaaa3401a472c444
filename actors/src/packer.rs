//! The actor that has weights packed before they are needed: a failure, or a lack of memory, is no time to do it while
//! everybody waits. One precision at a time, when the scheduler gives leave, in a process of its own that stands back for all
//! else.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;

use actix::prelude::*;
use models::Precision;
use tokio::process::Command;
use tokio::sync::oneshot;

use crate::scheduler::{AskLeave, Scheduler};

/// A model has three precisions that are packed.
const MAILBOX: usize = 16;

/// How the process is started.
#[derive(Clone, Debug)]
pub struct PackerSpec {
    /// The binary.
    pub program: PathBuf,
    /// The hidden subcommand.
    pub arguments: Vec<OsString>,
    /// The model's file or directory.
    pub model: PathBuf,
    /// Where packed weights are kept.
    pub directory: PathBuf,
}

/// See the module.
pub struct Packer {
    spec: PackerSpec,
    scheduler: Addr<Scheduler>,
    wanted: VecDeque<Precision>,
    is_busy: bool,
}

impl Packer {
    /// An actor not started yet.
    pub fn new(spec: PackerSpec, scheduler: Addr<Scheduler>) -> Self {
        Self {
            spec,
            scheduler,
            wanted: VecDeque::new(),
            is_busy: false,
        }
    }

    fn next(&mut self, ctx: &mut Context<Self>) {
        if self.is_busy {
            return;
        }
        let Some(precision) = self.wanted.pop_front() else {
            return;
        };
        self.is_busy = true;
        let mut command = Command::new(&self.spec.program);
        command
            .args(&self.spec.arguments)
            .arg(&self.spec.model)
            .arg(precision.name())
            .arg(&self.spec.directory)
            // Its other end is ours: when the daemon is gone, so is the process.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let (tell, told) = oneshot::channel();
        let asked = self.scheduler.send(AskLeave {
            what: "packing",
            tell,
        });
        let packed = async move {
            // Who is not heard, or gets no leave, is told so by what follows: the daemon stops.
            let _asked = asked.await;
            let Ok(leave) = told.await else { return Ok(None) };
            tracing::info!(%precision, "the model's weights are packed at another precision, to be at hand");
            let mut child = command.spawn()?;
            let held = child.stdin.take();
            let output = child.wait_with_output().await;
            drop((held, leave));
            output.map(Some)
        };
        ctx.spawn(packed.into_actor(self).map(move |output, act, ctx| {
            match output {
                Ok(None) => {}
                Ok(Some(output)) if output.status.success() => {
                    tracing::info!(%precision, "packed");
                }
                Ok(Some(output)) => {
                    let said = String::from_utf8_lossy(&output.stderr);
                    let reason = said.lines().last().unwrap_or_default();
                    tracing::warn!(%precision, status = %output.status, reason, "not packed");
                }
                Err(error) => tracing::warn!(%precision, %error, "not packed"),
            }
            act.is_busy = false;
            act.next(ctx);
        }));
    }
}

impl Actor for Packer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// Have these packed, the first one first. Those that are wanted already are not wanted twice.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Pack(pub Vec<Precision>);

impl Handler<Pack> for Packer {
    type Result = ();

    fn handle(&mut self, Pack(precisions): Pack, ctx: &mut Self::Context) {
        for precision in precisions {
            if !self.wanted.contains(&precision) {
                self.wanted.push_back(precision);
            }
        }
        self.next(ctx);
    }
}
