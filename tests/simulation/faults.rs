//! What happens to workers, to their databases, and between them and Telegram.

use tokio::time::Instant;
use wireroom::sandbox::{Effect, Fault};

use super::{
    bed::{Bed, LONGER_THAN_A_LEASE},
    plan::{Harm, Op},
};

impl Bed {
    pub async fn act_on_workers(&mut self, op: &Op) {
        match *op {
            Op::Start(slot) => self.start(slot).await,
            Op::Kill(slot) => {
                if let Some(worker) = self.workers[slot].take() {
                    worker.kill();
                }
            }
            Op::Stop(slot) => self.stop(slot).await,
            Op::Deploy { old, new } => {
                self.start(new).await;
                self.stop(old).await;
            }
            Op::Freeze(slot) => self.freeze(slot).await,
            Op::Thaw(slot) => self.thaw(slot).await,
            Op::CutDatabase(slot) => {
                if let Some(worker) = &self.workers[slot] {
                    worker.proxy.cut();
                }
            }
            Op::StallDatabase(slot) => {
                if let Some(worker) = &mut self.workers[slot] {
                    worker.proxy.blackhole();
                    worker.silent_since = Some(Instant::now());
                }
            }
            Op::HealDatabase(slot) => self.heal(slot).await,
            _ => unreachable!("no operation on workers: {op:?}"),
        }
    }

    pub async fn stop(&mut self, slot: usize) {
        let Some(worker) = self.workers[slot].take() else {
            return;
        };
        if let Err(why) = worker.stop().await {
            panic!("a worker that was told to stop: {why}");
        }
    }

    /// Until it is thawed, and for a moment after, its connections stand open beside those of whoever took its leases.
    async fn freeze(&mut self, slot: usize) {
        let Some(worker) = &mut self.workers[slot] else { return };
        worker.freeze().await;
        let held: Vec<i64> = sqlx::query_scalar(
            "SELECT s.account_id FROM session_leases l JOIN sessions s ON s.id = l.session_id WHERE l.owner = $1",
        )
        .bind(worker.id.0)
        .fetch_all(&self.pool)
        .await
        .expect("leases");
        self.model
            .frozen
            .extend(held.into_iter().map(|account| (account, None)));
    }

    pub async fn thaw(&mut self, slot: usize) {
        self.out_last_a_lease(slot).await;
        let Some(worker) = &mut self.workers[slot] else { return };
        worker.thaw();
        let until = Instant::now() + LONGER_THAN_A_LEASE;
        for (_, ended) in &mut self.model.frozen {
            ended.get_or_insert(until);
        }
    }

    pub async fn heal(&mut self, slot: usize) {
        self.out_last_a_lease(slot).await;
        if let Some(worker) = &mut self.workers[slot] {
            worker.proxy.resume();
            worker.silent_since = None;
        }
    }

    /// A worker that was silent for a shorter time may still commit what it sent before.
    async fn out_last_a_lease(&self, slot: usize) {
        let silent = self.workers[slot].as_ref().and_then(|worker| worker.silent_since);
        if let Some(since) = silent {
            tokio::time::sleep_until(since + LONGER_THAN_A_LEASE).await;
        }
    }

    pub fn act_on_telegram(&mut self, op: &Op) {
        let controls = self.sandbox.controls().clone();
        match *op {
            Op::Fault {
                session,
                method,
                ref harm,
                times,
            } => {
                let fault = Fault::once(method, effect(harm)).times(times);
                controls.add_fault(match session {
                    Some(session) => fault.of(self.sessions[session].account_id),
                    None => fault,
                });
                if let Some((_, ms)) = self.slow {
                    self.slow_down(ms);
                }
            }
            Op::Slow(ms) => self.slow_down(ms),
            Op::Disconnect(session) => {
                controls.drop_connections(Some(self.sessions[session].account_id));
            }
            Op::Silence(session) => {
                controls.silence_connections(Some(self.sessions[session].account_id));
            }
            Op::ForgetRandomIds => controls.with_world(wireroom::sandbox::world::World::forget_random_ids),
            _ => unreachable!("no operation on Telegram: {op:?}"),
        }
    }

    /// The fault that fits every call comes last, since the first that fits hits.
    fn slow_down(&mut self, ms: u64) {
        let controls = self.sandbox.controls();
        if let Some((fault, _)) = self.slow {
            controls.remove_fault(fault);
        }
        let fault = controls.add_fault(Fault::once("*", Effect::Delay { ms }).forever());
        self.slow = Some((fault, ms));
    }
}

fn effect(harm: &Harm) -> Effect {
    let error = |name: &&str| (*name).to_owned();
    match harm {
        Harm::Flood(seconds) => Effect::flood_wait(*seconds),
        Harm::Error(code, name) => Effect::Error {
            code: *code,
            name: error(name),
        },
        Harm::ErrorAfter(code, name) => Effect::ErrorAfter {
            code: *code,
            name: error(name),
        },
        Harm::LoseAnswer => Effect::LoseAnswer,
        Harm::Drop => Effect::Drop,
        Harm::DropAfter => Effect::DropAfter,
        Harm::Blackhole => Effect::Blackhole,
        Harm::BlackholeAfter => Effect::BlackholeAfter,
        Harm::Delay(ms) => Effect::Delay { ms: *ms },
    }
}
