//! A job about one chat.

use serde::{Deserialize, Serialize};

use super::{
    JoinAction, JoinArgs,
    approval::{self, Request},
    link::Target,
    one::{self, Asked, Look, Work},
    refusal::Stop,
    report::{JoinStatus, JoinedOne},
};
use crate::{JobContext, Outcome, ports::Chat};

/// How far the job is. A request is written as every version before wrote it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    request: Option<Request>,
    /// Telegram may have been asked by an earlier attempt: what it says of the session now is this job's doing.
    #[serde(default)]
    trying: bool,
}

pub(super) async fn run(args: &JoinArgs, context: &JobContext, target: &Target) -> Result<JoinedOne, Outcome> {
    let job = Single {
        work: Work {
            context,
            target,
            discussion: args.discussion,
            in_full: true,
        },
        timeout: args.approval_timeout,
        kept: context.read_checkpoint().await?.unwrap_or_default(),
    };
    context.stop_if_cancelled()?;
    let done = match args.action {
        JoinAction::Join => job.join().await,
        JoinAction::Leave => job.leave().await,
        JoinAction::Check => job.work.check(job.work.look().await).await,
    };
    done.map_err(|stop| match stop {
        Stop::Job(outcome) => outcome,
        Stop::Target(refusal) => Outcome::Discard(refusal.into_error()),
    })
}

struct Single<'a> {
    work: Work<'a>,
    timeout: Option<u32>,
    kept: Kept,
}

impl Single<'_> {
    async fn join(mut self) -> Result<JoinedOne, Stop> {
        let door = match self.work.look().await {
            Ok(Look::Inside(chat)) => return self.member(self.found_inside(), chat).await,
            Ok(Look::Outside(door)) => door,
            Err(Stop::Target(refusal)) if self.kept.request.is_some() && approval::is_refusal(&refusal) => {
                return Err(approval::refused(refusal).into());
            }
            Err(stop) => return Err(stop),
        };
        if let Some(request) = self.kept.request {
            return Err(self.wait(request).await);
        }
        self.work.admit(&door).await?;
        self.mark().await?;
        match self.work.ask(&door).await? {
            Asked::Member(status, chat) => self.member(status, chat).await,
            Asked::Waiting => Err(self.wait(Request::sent(self.work.context)).await),
        }
    }

    async fn leave(mut self) -> Result<JoinedOne, Stop> {
        let looked = match self.work.look().await {
            Err(Stop::Target(refusal)) if one::shows_outside(&refusal) => None,
            Err(stop) => return Err(stop),
            Ok(Look::Outside(door)) => Some(Look::Outside(door)),
            Ok(inside) => Some(inside),
        };
        let report = match looked {
            Some(Look::Inside(chat)) => {
                self.mark().await?;
                return self.work.leave(&chat).await;
            }
            Some(Look::Outside(door)) => self.work.gone(door.known()).await?,
            None => self.work.gone(None).await?,
        };
        // Left by an attempt that did not get to say so.
        let status = if self.kept.trying {
            JoinStatus::Left
        } else {
            report.status
        };
        Ok(JoinedOne { status, ..report })
    }

    /// Durable before Telegram is asked.
    async fn mark(&mut self) -> Result<(), Stop> {
        if !self.kept.trying {
            self.kept.trying = true;
            self.work.context.write_checkpoint(&self.kept).await?;
        }
        Ok(())
    }

    fn found_inside(&self) -> JoinStatus {
        match (self.kept.request, self.kept.trying) {
            (Some(_), _) => JoinStatus::Approved,
            (None, true) => JoinStatus::Joined,
            (None, false) => JoinStatus::AlreadyMember,
        }
    }

    async fn member(&self, status: JoinStatus, chat: Chat) -> Result<JoinedOne, Stop> {
        Ok(JoinedOne {
            requested_at: self.kept.request.map(|request| request.requested_at),
            ..self.work.member(status, chat).await?
        })
    }

    /// Puts the job off to the next look at its request, or ends it when there is no time for another.
    async fn wait(&self, request: Request) -> Stop {
        let context = self.work.context;
        let expires = request.expires(context, self.timeout);
        let Some(until) = request.next_look(context.clock.now(), expires, 0) else {
            return approval::expired().into();
        };
        let kept = Kept {
            request: Some(Request {
                looks: request.looks.saturating_add(1),
                ..request
            }),
            trying: true,
        };
        match context.write_checkpoint(&kept).await {
            Ok(()) => Stop::Job(approval::pause(until, expires)),
            Err(outcome) => Stop::Job(outcome),
        }
    }
}
