//! Every job told apart by its number, in a few bits each: whether its function was called, called again, and whether it has
//! finished. So a run of many millions of jobs is accounted for in some megabytes.

use std::collections::HashSet;

use crate::{
    ids::WorkerId,
    store::soak::{Found, Share},
};

/// One bit per number.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    /// Sets a bit; tells whether it was set before.
    fn set(&mut self, number: u32) -> bool {
        let (word, bit) = (number as usize / 64, 1_u64 << (number % 64));
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let was_set = self.0[word] & bit != 0;
        self.0[word] |= bit;
        was_set
    }

    fn has(&self, number: u32) -> bool {
        let word = self.0.get(number as usize / 64).copied().unwrap_or(0);
        word & (1 << (number % 64)) != 0
    }
}

/// What is known of each job.
#[derive(Debug, Default)]
pub struct Account {
    /// The function was called, as a worker told.
    called: Bits,
    /// … and once more.
    again: HashSet<u32>,
    finished: Bits,
    /// Finished by a worker that was killed before it could tell of the call.
    untold: u64,
    /// Taken back from a worker that was killed.
    rescued: HashSet<u32>,
    killed: HashSet<WorkerId>,
    calls: u64,
    finished_count: u64,
    twice: u64,
    strange: u64,
    otherwise: u64,
    posted: u64,
    /// Taken back from workers that were not killed.
    taken: u64,
}

/// What the account comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Enqueued, and neither finished nor waiting.
    pub lost: u64,
    /// With more than one result.
    pub twice: u64,
    /// Called more than once although no worker was killed under them, or finished without a call.
    pub doubled: u64,
    /// With a number that was not given out.
    pub strange: u64,
    /// Ended otherwise than well.
    pub otherwise: u64,
    /// Run again because their worker was killed.
    pub rescued: u64,
    /// Taken back from a worker that was not killed.
    pub taken: u64,
    /// Finished jobs that came over HTTP.
    pub posted: u64,
}

impl Account {
    /// A worker called the function for these.
    pub fn ran(&mut self, numbers: &[u32]) {
        for number in numbers {
            self.calls += 1;
            if self.called.set(*number) {
                self.again.insert(*number);
            }
        }
    }

    /// This worker was killed; all that it told has been taken in.
    pub fn killed(&mut self, worker: WorkerId) {
        self.killed.insert(worker);
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Jobs with a number that have finished, as far as the history was read.
    pub fn finished(&self) -> u64 {
        self.finished_count
    }

    /// Takes in what was found in a part of the history that nothing is added to any more.
    pub fn found(&mut self, found: Found, sent: u64) {
        for Share { worker, numbers } in found.shares {
            let was_killed = worker.is_some_and(|worker| self.killed.contains(&worker));
            for number in numbers {
                match u32::try_from(number) {
                    Ok(number) if u64::from(number) < sent => self.take(number, was_killed),
                    _ => self.strange += 1,
                }
            }
        }
        self.otherwise += found.otherwise.unsigned_abs();
        self.posted += found.posted.unsigned_abs();
        for (number, worker) in found.rescued {
            match u32::try_from(number) {
                Ok(number) if worker.is_some_and(|worker| self.killed.contains(&worker)) => {
                    self.rescued.insert(number);
                }
                _ => self.taken += 1,
            }
        }
    }

    fn take(&mut self, number: u32, by_killed: bool) {
        if self.finished.set(number) {
            self.twice += 1;
        } else {
            self.finished_count += 1;
        }
        if by_killed && !self.called.has(number) {
            self.called.set(number);
            self.untold += 1;
        }
    }

    /// The account of a run that enqueued the numbers below `sent`, of which none waits any more.
    pub fn balance(&self, sent: u64) -> Balance {
        let unexplained = self
            .again
            .iter()
            .filter(|number| !self.rescued.contains(number))
            .count() as u64;
        let uncalled = (0..u32::try_from(sent).unwrap_or(u32::MAX))
            .filter(|number| self.finished.has(*number) && !self.called.has(*number))
            .count() as u64;
        Balance {
            lost: sent.saturating_sub(self.finished_count + self.otherwise),
            twice: self.twice,
            doubled: unexplained + uncalled,
            strange: self.strange,
            otherwise: self.otherwise,
            rescued: self.rescued.len() as u64,
            taken: self.taken,
            posted: self.posted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(worker: WorkerId, numbers: &[i32]) -> Found {
        Found {
            shares: vec![Share {
                worker: Some(worker),
                numbers: numbers.to_vec(),
            }],
            otherwise: 0,
            posted: 0,
            rescued: Vec::new(),
        }
    }

    #[test]
    fn a_run_without_a_kill_calls_and_finishes_each_job_once() {
        let worker = WorkerId::generate();
        let mut account = Account::default();
        account.ran(&[0, 1, 2, 64, 65]);
        account.found(found(worker, &[0, 1, 2]), 66);
        assert_eq!(account.balance(3), Balance::default());
        assert_eq!(account.balance(5).lost, 2);
        // Found again: a second result.
        account.found(found(worker, &[2]), 66);
        assert_eq!(account.balance(3).twice, 1);
        // A number that nobody gave out.
        account.found(found(worker, &[66, -1]), 66);
        assert_eq!(account.balance(3).strange, 2);
    }

    #[test]
    fn a_second_call_needs_a_killed_worker() {
        let (dead, alive) = (WorkerId::generate(), WorkerId::generate());
        let mut account = Account::default();
        account.ran(&[0, 1]);
        account.ran(&[0, 1]);
        account.killed(dead);
        let mut seen = found(alive, &[0, 1]);
        seen.rescued = vec![(0, Some(dead)), (1, Some(alive))];
        account.found(seen, 2);
        let balance = account.balance(2);
        assert_eq!((balance.rescued, balance.doubled, balance.taken), (1, 1, 1));
    }

    #[test]
    fn a_killed_worker_may_not_have_told_its_last_calls() {
        let (dead, alive) = (WorkerId::generate(), WorkerId::generate());
        let mut account = Account::default();
        account.killed(dead);
        account.found(found(dead, &[0]), 2);
        assert_eq!(account.balance(1), Balance::default());
        // Of one that lives, a job without a call is a job that was not run.
        account.found(found(alive, &[1]), 2);
        assert_eq!(account.balance(2).doubled, 1);
    }

    #[test]
    fn a_job_that_ended_otherwise_is_not_lost_but_told() {
        let mut account = Account::default();
        let mut seen = found(WorkerId::generate(), &[]);
        (seen.otherwise, seen.posted) = (1, 4);
        account.found(seen, 1);
        let balance = account.balance(1);
        assert_eq!((balance.lost, balance.otherwise, balance.posted), (0, 1, 4));
    }
}
