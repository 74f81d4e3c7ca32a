//! Which updates are missing, and how they are had: grammers' message boxes tell the first, the rest is here.
//!
//! grammers' own receiver loses three things on the way that ours hands over. It lets the boxes look at what a difference
//! tells beside new messages after they were moved to the difference's end, so that edits and deletions seem to be old. It
//! does not say when a difference was too long to be had, or when `updateChannelTooLong` moved a box past what was read. And
//! it keeps to itself that a channel cannot be read any more.

use std::collections::{BTreeMap, BTreeSet};

use grammers_mtsender::RpcError;
use grammers_session::{
    Session as _,
    types::{PeerId, PeerInfo},
    updates::{MessageBoxes, PrematureEndReason, State, UpdatesLike},
};
use grammers_tl_types as tl;
use std::time::Duration;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{
    rests::Rests,
    sorting::{self, Sequence},
};
use crate::{
    store::{
        intake::{Arrival, Incoming, Recorded},
        update_states::{ACCOUNT_BOX, BoxState},
    },
    telegram::{
        connection::{CallError, Connection},
        errors::Meaning,
        message_facts,
    },
};

/// How many events one request gives a bot, and anybody else.
const BOT_LIMIT: i32 = 100_000;
const LIMIT: i32 = 100;
/// What is handed over together when more is waiting.
const TOGETHER: usize = 200;

/// What was read, and how far that goes.
#[derive(Default)]
pub(super) struct Batch {
    pub boxes: Vec<BoxState>,
    pub incoming: Vec<Incoming>,
    pub users: Vec<tl::enums::User>,
    pub chats: Vec<tl::enums::Chat>,
    /// Bare ids of channels whose updates are not read any more.
    pub forgotten: Vec<i64>,
    moved: BTreeSet<Sequence>,
    /// The account was let into a supergroup or channel, perhaps.
    pub entered: bool,
}

/// The sequences of one session.
pub(super) struct Receiver<'a> {
    connection: &'a Connection,
    boxes: MessageBoxes,
    updates: mpsc::Receiver<UpdatesLike>,
    /// When all is asked for, unless something comes before.
    silent_at: Instant,
    rests: Rests,
    /// Channels that the account is in no more, by their bare ids.
    left: BTreeSet<i64>,
    closed: bool,
}

impl<'a> Receiver<'a> {
    /// The boxes as they are stored; where the account's place is not known, as they are now.
    pub async fn open(connection: &Connection) -> Result<MessageBoxes, CallError> {
        let mut stored = connection.storage().updates_state().await.map_err(|error| {
            tracing::warn!(%error, "the place in the updates could not be read");
            CallError::Disconnected(None)
        })?;
        if stored.pts != 0 {
            return Ok(MessageBoxes::load(stored));
        }
        let tl::enums::updates::State::State(now) = connection.call(&tl::functions::updates::GetState {}).await?;
        begin_account(connection, &now).await?;
        if stored.channels.is_empty() {
            let mut boxes = MessageBoxes::new();
            boxes.set_state(now);
            return Ok(boxes);
        }
        stored.pts = now.pts;
        stored.qts = now.qts;
        stored.date = now.date;
        stored.seq = now.seq;
        Ok(MessageBoxes::load(stored))
    }

    pub fn new(connection: &'a Connection, boxes: MessageBoxes, updates: mpsc::Receiver<UpdatesLike>) -> Self {
        Self {
            connection,
            boxes,
            updates,
            silent_at: Instant::now() + connection.silence(),
            rests: Rests::default(),
            left: BTreeSet::new(),
            closed: false,
        }
    }

    /// Nothing more will come.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Nothing is being asked for.
    pub fn has_caught_up(&self) -> bool {
        self.boxes.get_difference().is_none() && self.boxes.get_channel_difference().is_none()
    }

    /// The next updates, in order and without gaps; call it again when they are stored.
    pub async fn next(&mut self) -> Result<Batch, CallError> {
        loop {
            let batch = self.begin_channels();
            if !batch.boxes.is_empty() {
                return Ok(batch);
            }
            if self.connection.take_hung_up() {
                // A gap is noted in the boxes, which ask for a difference then: that dials.
                let _ = self.boxes.process_updates(UpdatesLike::ConnectionClosed);
            }
            let now = Instant::now();
            let mut due = self.rests.take_due(now);
            let places = self.boxes.session_state();
            self.left
                .retain(|id| Sequence::Channel(*id).place_in(&places).is_some());
            due.extend(&self.left);
            self.ask(due);
            let deadline = Instant::from_std(self.boxes.check_deadlines());
            if let Some(request) = self.boxes.get_difference() {
                return Box::pin(self.difference(request)).await;
            }
            if let Some(request) = self.boxes.get_channel_difference() {
                let id = bare_id(&request.channel);
                if let Some(id) = id.filter(|id| self.left.remove(id)) {
                    return Ok(self.forget_channel(id));
                }
                if id.is_some_and(|id| self.rests.holds(id, now)) {
                    // What was pushed of it meanwhile shows a gap: it is asked when its time has come.
                    self.boxes
                        .end_channel_difference(PrematureEndReason::TemporaryServerIssues);
                    continue;
                }
                return Box::pin(self.channel_difference(request)).await;
            }
            let again_at = self.rests.next_at().unwrap_or(deadline);
            let until = deadline.min(self.silent_at).min(again_at);
            let got = tokio::select! {
                got = timeout_at(until, self.updates.recv()) => got,
                () = self.connection.nudged() => continue,
            };
            match got {
                Ok(Some(updates)) => {
                    let batch = self.take_in(updates);
                    if !batch.is_empty() {
                        return Ok(batch);
                    }
                }
                Ok(None) => {
                    self.closed = true;
                    return Err(CallError::Disconnected(None));
                }
                Err(_) => self.look_again(),
            }
        }
    }

    /// Channels whose place somebody has found out.
    fn begin_channels(&mut self) -> Batch {
        let mut batch = Batch::default();
        for (channel, pts) in self.connection.take_begun_channels() {
            // It is seen again since.
            self.left.remove(&channel);
            if self.place(Sequence::Channel(channel)).is_none() {
                self.boxes.try_set_channel_state(channel, pts);
                batch.moved.insert(Sequence::Channel(channel));
            }
        }
        self.finish(&mut batch);
        batch
    }

    /// Takes in what was pushed, and what else is there already.
    fn take_in(&mut self, first: UpdatesLike) -> Batch {
        let mut batch = Batch::default();
        let mut next = Some(first);
        while let Some(updates) = next {
            self.process(updates, &mut batch);
            // What is pushed while a difference is to be had is in it.
            let goes_on = batch.incoming.len() < TOGETHER && self.has_caught_up();
            next = goes_on.then(|| self.updates.try_recv().ok()).flatten();
        }
        self.finish(&mut batch);
        self.heard();
        batch
    }

    fn process(&mut self, updates: UpdatesLike, batch: &mut Batch) {
        let updates = match updates {
            UpdatesLike::Updates(tl::enums::Updates::Updates(mut told)) => {
                self.keep_places(&mut told.updates, batch);
                UpdatesLike::Updates(told.into())
            }
            UpdatesLike::Updates(tl::enums::Updates::Combined(mut told)) => {
                self.keep_places(&mut told.updates, batch);
                UpdatesLike::Updates(told.into())
            }
            UpdatesLike::Updates(tl::enums::Updates::UpdateShort(mut told)) => {
                self.keep_places(std::slice::from_mut(&mut told.update), batch);
                UpdatesLike::Updates(told.into())
            }
            other => other,
        };
        // A gap is noted in the boxes, which ask for a difference then.
        let Ok((updates, users, chats)) = self.boxes.process_updates(updates) else {
            return;
        };
        self.accept(&updates, &chats, batch);
        batch.users.extend(users);
        batch.chats.extend(chats);
    }

    /// Keeps `updateChannelTooLong` from moving a box past what was read.
    fn keep_places(&mut self, updates: &mut [tl::enums::Update], batch: &mut Batch) {
        for update in updates {
            let tl::enums::Update::ChannelTooLong(told) = update else {
                continue;
            };
            let to_pts = told.pts.take();
            if self.place(Sequence::Channel(told.channel_id)).is_some() {
                continue;
            }
            // Nobody knows from where on it would have to be read.
            batch
                .incoming
                .extend(gap(told.channel_id, None, to_pts, None, "updateChannelTooLong"));
            if let Some(pts) = to_pts {
                self.boxes.try_set_channel_state(told.channel_id, pts);
                batch.moved.insert(Sequence::Channel(told.channel_id));
            }
        }
    }

    /// Takes what the boxes have let through.
    fn accept(&self, updates: &[(tl::enums::Update, State)], chats: &[tl::enums::Chat], batch: &mut Batch) {
        if updates.is_empty() {
            return;
        }
        let account_id = self.connection.storage().account_id();
        let places = self.boxes.session_state();
        for (update, state) in updates {
            if let Some(message_box) = state.message_box {
                let (sequence, pts) = sorting::place_of(message_box);
                // It came while a difference is to be had: that will bring it, in its order.
                if sequence.place_in(&places).is_some_and(|place| pts > place) {
                    continue;
                }
                batch.moved.insert(sequence);
            }
            batch.entered |= sorting::tells_of_entry(update, chats);
            sorting::sort(update, chats, account_id, &mut batch.incoming);
        }
    }

    /// Where a sequence is: everything up to there was handed over.
    fn place(&self, sequence: Sequence) -> Option<i32> {
        sequence.place_in(&self.boxes.session_state())
    }

    /// Notes how far a batch goes.
    fn finish(&mut self, batch: &mut Batch) {
        let state = self.boxes.session_state();
        self.left
            .extend(batch.incoming.iter().filter_map(Incoming::lost_channel));
        let mut boxes = BTreeMap::new();
        for sequence in &batch.moved {
            let stored = boxes.entry(sequence.stored_in()).or_insert(BoxState {
                update_box: sequence.stored_in(),
                pts: None,
                qts: None,
                date: None,
                seq: None,
            });
            match sequence {
                Sequence::Common => stored.pts = Some(state.pts),
                Sequence::Secondary => stored.qts = Some(state.qts),
                Sequence::Channel(_) => stored.pts = sequence.place_in(&state),
            }
            if sequence.stored_in() == ACCOUNT_BOX {
                // Zero is how grammers writes "not known".
                stored.date = Some(state.date).filter(|date| *date != 0);
                stored.seq = Some(state.seq).filter(|seq| *seq != 0);
            }
        }
        // A channel that is known no more has no place.
        boxes.retain(|update_box, stored| *update_box == ACCOUNT_BOX || stored.pts.is_some());
        batch.boxes = boxes.into_values().collect();
    }

    fn heard(&mut self) {
        self.silent_at = Instant::now() + self.connection.silence();
    }

    /// After a silence everything is asked for.
    fn look_again(&mut self) {
        if self.silent_at > Instant::now() {
            return;
        }
        self.heard();
        // Like a connection that was lost: the account's difference is asked for.
        let _ = self.boxes.process_updates(UpdatesLike::ConnectionClosed);
        let known = self.boxes.session_state().channels.into_iter();
        self.ask(known.map(|channel| channel.id).collect());
    }

    /// Sees to it that the differences of these channels are asked for.
    fn ask(&mut self, channels: Vec<i64>) {
        let updates: Vec<tl::enums::Update> = channels
            .into_iter()
            .filter(|id| self.place(Sequence::Channel(*id)).is_some())
            .map(|channel_id| tl::types::UpdateChannelTooLong { channel_id, pts: None }.into())
            .collect();
        if !updates.is_empty() {
            // Nothing in it is to be handed over.
            let _ = self.boxes.process_updates(container(updates));
        }
    }

    async fn difference(&mut self, request: tl::functions::updates::GetDifference) -> Result<Batch, CallError> {
        let mut answer = self.connection.call(&request).await?;
        self.heard();
        let mut batch = Batch::default();
        let mut chats = Vec::new();
        match &mut answer {
            tl::enums::updates::Difference::Empty(_) => {}
            tl::enums::updates::Difference::Difference(told) => {
                chats = std::mem::take(&mut told.chats);
                batch.users = std::mem::take(&mut told.users);
                told.new_encrypted_messages.clear();
                self.take_out(
                    None,
                    &mut told.new_messages,
                    &mut told.other_updates,
                    &chats,
                    &mut batch,
                );
            }
            tl::enums::updates::Difference::Slice(told) => {
                chats = std::mem::take(&mut told.chats);
                batch.users = std::mem::take(&mut told.users);
                told.new_encrypted_messages.clear();
                self.take_out(
                    None,
                    &mut told.new_messages,
                    &mut told.other_updates,
                    &chats,
                    &mut batch,
                );
            }
            tl::enums::updates::Difference::TooLong(told) => batch.incoming.push(Incoming::Gap {
                chat: None,
                from_pts: Some(request.pts),
                to_pts: Some(told.pts),
                newest: None,
                reason: "differenceTooLong".to_owned(),
            }),
        }
        if !matches!(answer, tl::enums::updates::Difference::Empty(_)) {
            batch.moved.extend([Sequence::Common, Sequence::Secondary]);
        }
        let (updates, _, _) = self.boxes.apply_difference(answer);
        self.accept(&updates, &chats, &mut batch);
        batch.chats = chats;
        self.finish(&mut batch);
        Ok(batch)
    }

    /// Takes what a difference tells out of it, as far as it is in the difference's own sequence or in none: all of that is
    /// new. What is left is for the boxes to judge.
    fn take_out(
        &mut self,
        channel: Option<i64>,
        messages: &mut Vec<tl::enums::Message>,
        others: &mut Vec<tl::enums::Update>,
        chats: &[tl::enums::Chat],
        batch: &mut Batch,
    ) {
        let account_id = self.connection.storage().account_id();
        messages.sort_by_key(tl::enums::Message::id);
        for message in messages.drain(..) {
            sorting::came_in(&message, account_id, &mut batch.incoming);
        }
        let (own, mut left): (Vec<_>, Vec<_>) = others.drain(..).partition(|update| {
            let of = Sequence::channel_of(update);
            of.is_none() || (of == channel && !matches!(update, tl::enums::Update::ChannelTooLong(_)))
        });
        for update in own {
            batch.entered |= sorting::tells_of_entry(&update, chats);
            sorting::sort(&update, chats, account_id, &mut batch.incoming);
        }
        self.keep_places(&mut left, batch);
        *others = left;
    }

    async fn channel_difference(
        &mut self,
        mut request: tl::functions::updates::GetChannelDifference,
    ) -> Result<Batch, CallError> {
        let Some(id) = bare_id(&request.channel) else {
            self.boxes.end_channel_difference(PrematureEndReason::Banned);
            return Ok(Batch::default());
        };
        let Some(access_hash) = self.access_hash(id).await? else {
            // It comes with whatever is told of the channel next.
            return Ok(self.put_channel_off(id, "its access hash is not known", None));
        };
        request.channel = tl::types::InputChannel {
            channel_id: id,
            access_hash,
        }
        .into();
        request.limit = if self.is_bot().await { BOT_LIMIT } else { LIMIT };
        match self.connection.call(&request).await {
            Ok(answer) => {
                self.rests.end(id);
                Ok(self.apply_channel(id, request.pts, answer))
            }
            Err(CallError::Rpc(error)) => self.refused(request.channel, id, request.pts, error).await,
            Err(error) => self.not_answered(id, error),
        }
    }

    async fn access_hash(&self, channel: i64) -> Result<Option<i64>, CallError> {
        let Some(peer) = PeerId::channel(channel) else {
            return Ok(None);
        };
        let found = self.connection.storage().find_peer(peer).await.map_err(|error| {
            tracing::warn!(%error, "a channel's access hash could not be read");
            CallError::Disconnected(None)
        })?;
        Ok(match found {
            Some(PeerInfo::Channel { auth: Some(auth), .. }) => Some(auth.hash()),
            _ => None,
        })
    }

    async fn is_bot(&self) -> bool {
        let myself = self.connection.storage().find_peer(PeerId::self_user()).await;
        matches!(myself, Ok(Some(PeerInfo::User { bot: Some(true), .. })))
    }

    fn apply_channel(&mut self, id: i64, from: i32, mut answer: tl::enums::updates::ChannelDifference) -> Batch {
        use tl::enums::updates::ChannelDifference as D;

        let mut batch = Batch::default();
        let mut chats = Vec::new();
        // Its timeouts are for a chat that somebody looks at: we are told of what happens.
        match &mut answer {
            D::Empty(told) => {
                told.timeout = None;
                if told.pts != from {
                    batch.moved.insert(Sequence::Channel(id));
                }
            }
            D::Difference(told) => {
                told.timeout = None;
                chats = std::mem::take(&mut told.chats);
                batch.users = std::mem::take(&mut told.users);
                self.take_out(
                    Some(id),
                    &mut told.new_messages,
                    &mut told.other_updates,
                    &chats,
                    &mut batch,
                );
                batch.moved.insert(Sequence::Channel(id));
            }
            D::TooLong(told) => {
                told.timeout = None;
                chats = std::mem::take(&mut told.chats);
                batch.users = std::mem::take(&mut told.users);
                let tl::enums::Dialog::Dialog(dialog) = &told.dialog else {
                    return self.put_channel_off(id, "its dialog was not told", None);
                };
                let Some(to_pts) = dialog.pts else {
                    return self.put_channel_off(id, "its place was not told", None);
                };
                let newest = Some(dialog.top_message);
                batch
                    .incoming
                    .extend(gap(id, Some(from), Some(to_pts), newest, "channelDifferenceTooLong"));
                batch.moved.insert(Sequence::Channel(id));
            }
        }
        let (updates, _, _) = self.boxes.apply_channel_difference(answer);
        self.accept(&updates, &chats, &mut batch);
        batch.chats = chats;
        self.finish(&mut batch);
        batch
    }

    /// Telegram did not give a channel's difference.
    async fn refused(
        &mut self,
        channel: tl::enums::InputChannel,
        id: i64,
        pts: i32,
        error: RpcError,
    ) -> Result<Batch, CallError> {
        match Meaning::of(&error) {
            Meaning::Flood => {
                let wait = self.flood("updates.getChannelDifference", &error).await;
                Ok(self.put_channel_off(id, &error.name, wait))
            }
            Meaning::LostPlace => self.start_channel_over(channel, id, pts, &error.name).await,
            _ if error.name == "PERSISTENT_TIMESTAMP_OUTDATED" || !(400..500).contains(&error.code) => {
                Ok(self.put_channel_off(id, &error.name, None))
            }
            _ => Ok(self.lose_channel(id, &error.name)),
        }
    }

    /// Goes on from where the channel is now: what was before is only in its history.
    async fn start_channel_over(
        &mut self,
        channel: tl::enums::InputChannel,
        id: i64,
        from: i32,
        reason: &str,
    ) -> Result<Batch, CallError> {
        let request = tl::functions::channels::GetFullChannel { channel };
        let full = match self.connection.call(&request).await {
            Ok(tl::enums::messages::ChatFull::Full(full)) => full,
            Err(CallError::Rpc(error)) => {
                let wait = self.flood("channels.getFullChannel", &error).await;
                return Ok(self.put_channel_off(id, &error.name, wait));
            }
            Err(error) => return self.not_answered(id, error),
        };
        let tl::enums::ChatFull::ChannelFull(now) = full.full_chat else {
            return Ok(self.put_channel_off(id, "its place was not told", None));
        };
        self.rests.end(id);
        self.boxes.end_channel_difference(PrematureEndReason::Banned);
        self.boxes.try_set_channel_state(id, now.pts);
        let mut batch = Batch {
            users: full.users,
            chats: full.chats,
            ..Batch::default()
        };
        batch.incoming.extend(gap(id, Some(from), Some(now.pts), None, reason));
        batch.moved.insert(Sequence::Channel(id));
        self.finish(&mut batch);
        Ok(batch)
    }

    /// What is about this channel alone puts it off; without a connection nothing can be asked for.
    fn not_answered(&mut self, id: i64, error: CallError) -> Result<Batch, CallError> {
        match error {
            CallError::Deadline | CallError::Unreadable => Ok(self.put_channel_off(id, &error.to_string(), None)),
            other => Err(other),
        }
    }

    /// Records a flood; answers how long it lasts, unless it was none.
    async fn flood(&mut self, method: &str, error: &RpcError) -> Option<Duration> {
        let wait = Box::pin(self.connection.record_flood(method, error)).await;
        if wait.is_zero() {
            return None;
        }
        // It is about the method, whatever channel is asked about.
        self.rests.rest_all(Instant::now() + wait);
        Some(wait)
    }

    /// Leaves a channel where it is, for as long as Telegram says or for a while; everything else goes on.
    fn put_channel_off(&mut self, id: i64, reason: &str, wait: Option<Duration>) -> Batch {
        self.boxes
            .end_channel_difference(PrematureEndReason::TemporaryServerIssues);
        let session = self.connection.storage().lease().session;
        if self.rests.put_off(id, wait, Instant::now()) {
            tracing::warn!(session.id = %session, channel = id, reason, "a channel's updates cannot be had now: put off");
        } else {
            tracing::debug!(session.id = %session, channel = id, reason, "a channel's updates cannot be had yet");
        }
        Batch::default()
    }

    /// The channel whose difference is to be had cannot be read any more.
    fn lose_channel(&mut self, id: i64, reason: &str) -> Batch {
        let lost = message_facts::channel_id(id).map(|chat| Incoming::Lost {
            chat,
            reason: reason.to_owned(),
        });
        Batch {
            incoming: lost.into_iter().collect(),
            ..self.forget_channel(id)
        }
    }

    /// Nothing is asked any more about the channel whose difference is to be had.
    fn forget_channel(&mut self, id: i64) -> Batch {
        self.boxes.end_channel_difference(PrematureEndReason::Banned);
        self.rests.end(id);
        Batch {
            forgotten: vec![id],
            ..Batch::default()
        }
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.boxes.is_empty() && self.incoming.is_empty() && self.users.is_empty() && self.chats.is_empty()
    }
}

/// Stores the account's new place together with the gap before it. Whatever was read of the account's chats so far was
/// read before that place was known: what came between the two is only in the histories.
async fn begin_account(connection: &Connection, now: &tl::types::updates::State) -> Result<(), CallError> {
    let place = BoxState {
        update_box: ACCOUNT_BOX,
        pts: Some(now.pts),
        qts: Some(now.qts),
        date: Some(now.date),
        seq: Some(now.seq),
    };
    let gap = Incoming::Gap {
        chat: None,
        from_pts: None,
        to_pts: Some(now.pts),
        newest: None,
        reason: "placeUnknown".to_owned(),
    };
    let arrival = Arrival {
        lease: connection.storage().lease(),
        account_id: connection.storage().account_id(),
        boxes: vec![place],
        incoming: vec![gap],
        forgotten: Vec::new(),
    };
    match connection.recorder().record(arrival).await {
        Recorded::Stored { troubled } => {
            if troubled {
                connection.note_trouble();
            }
            Ok(())
        }
        Recorded::Fenced => Err(CallError::LeaseLost),
    }
}

fn gap(
    channel: i64,
    from_pts: Option<i32>,
    to_pts: Option<i32>,
    newest: Option<i32>,
    reason: &str,
) -> Option<Incoming> {
    Some(Incoming::Gap {
        chat: Some(message_facts::channel_id(channel)?),
        from_pts,
        to_pts,
        newest,
        reason: reason.to_owned(),
    })
}

fn bare_id(channel: &tl::enums::InputChannel) -> Option<i64> {
    match channel {
        tl::enums::InputChannel::Channel(channel) => Some(channel.channel_id),
        _ => None,
    }
}

/// Updates as they are pushed, without a place in the account's own sequence.
fn container(updates: Vec<tl::enums::Update>) -> UpdatesLike {
    UpdatesLike::Updates(
        tl::types::Updates {
            updates,
            users: Vec::new(),
            chats: Vec::new(),
            date: 0,
            seq: 0,
        }
        .into(),
    )
}
