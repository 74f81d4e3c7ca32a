//! What was written under the posts of a channel: post by post from the newest, each from its newest comment to its oldest.

use std::{cmp::Reverse, collections::VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    Bound, CommentsArgs, Incomplete, ScanArgs, ScanResult, ScanWhat, begin,
    files::Downloads,
    find, finish,
    history::PAGE,
    ports::{Count, MessageCut, PageEnd, ScannedMessage, Tally},
    rate::Rate,
    say_begin,
};
use crate::{
    JobContext, JobError, LogLine, Outcome,
    context::checkpoint_value,
    ports::{Chat, ChatType},
};

/// The checkpoint: which post, and how far down its comments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    chat_id: i64,
    /// Only older posts are left; 0: none was looked at.
    before_post: i32,
    /// How many posts were dealt with.
    posts: i64,
    /// How many of them cannot be commented, or are not there.
    closed: i64,
    /// How many comments the posts have in all.
    counted: i64,
    /// The post whose comments are being read.
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    post: i32,
    /// The discussion group.
    chat_id: i64,
    /// Only older comments are left; 0: none was read.
    before: i32,
    /// How many were read.
    read: i64,
}

pub(super) async fn read(args: &ScanArgs, context: &JobContext) -> Result<ScanResult, Outcome> {
    let kept: Option<Position> = context.read_checkpoint().await?;
    let chat = find(context, args, kept.map(|position| position.chat_id)).await?;
    if chat.chat_type != ChatType::Channel {
        return Err(Outcome::Discard(JobError::permanent(
            "not_a_channel",
            "args.chat is a group: comments are written under the posts of a channel. Use what: history.",
        )));
    }
    context.store.save_chat(&chat).await?;
    begin(context, args, Some(chat.id)).await?;
    let position = kept.unwrap_or(Position {
        chat_id: chat.id,
        before_post: 0,
        posts: 0,
        closed: 0,
        counted: 0,
        open: None,
    });
    let tally = say_begin(context, kept.is_some(), Some(position.counted)).await?;
    let wanted = args.comments.clone().unwrap_or_default();
    let reading = Reading {
        context,
        chat: &chat,
        bound: Bound::new(args),
        posts: Posts::of(wanted),
        position,
        tally,
        rate: Rate::new(context, tally.seen),
        downloads: Downloads::begin(context, args.download.as_ref()).await?,
    };
    reading.run().await
}

/// Where the posts come from.
struct Posts {
    wanted: CommentsArgs,
    /// Known and not dealt with, newest first.
    queue: VecDeque<ScannedMessage>,
    /// The lowest number of a named post that was asked for.
    asked: Option<i32>,
    /// Nothing is behind the queue.
    ended: bool,
}

impl Posts {
    fn of(mut wanted: CommentsArgs) -> Self {
        wanted.posts.sort_unstable_by_key(|post| Reverse(*post));
        wanted.posts.dedup();
        Self {
            wanted,
            queue: VecDeque::new(),
            asked: None,
            ended: false,
        }
    }
}

/// One attempt to read the comments of all posts.
struct Reading<'a> {
    context: &'a JobContext,
    chat: &'a Chat,
    bound: Bound,
    posts: Posts,
    position: Position,
    tally: Tally,
    rate: Rate,
    downloads: Option<Downloads<'a>>,
}

impl Reading<'_> {
    async fn run(mut self) -> Result<ScanResult, Outcome> {
        // What an earlier attempt has left.
        self.download().await?;
        while !self.bound.is_reached(self.tally.seen) {
            self.rate.stop_if_due(self.context)?;
            if let Some(open) = self.position.open {
                self.page(open).await?;
                self.download().await?;
            } else if !self.open_next().await? {
                break;
            }
        }
        let count = Count {
            chat_id: self.chat.id,
            what: ScanWhat::Comments,
            list: None,
            counted: Some(self.position.counted),
            tally: self.tally,
            reason: self.ended_because(),
        };
        let scanned = finish(self.context, self.chat, count, None).await?;
        let files = match self.downloads {
            Some(downloads) => Some(downloads.report().await?),
            None => None,
        };
        Ok(ScanResult { files, ..scanned })
    }

    async fn download(&mut self) -> Result<(), Outcome> {
        match &mut self.downloads {
            Some(downloads) => downloads.run(&mut self.rate).await,
            None => Ok(()),
        }
    }

    /// Goes on to the next post that has comments; `false`: there is none.
    async fn open_next(&mut self) -> Result<bool, Outcome> {
        let Some(post) = self.next_post().await? else {
            return Ok(false);
        };
        let replies = i64::from(post.replies.unwrap_or(0));
        let id = post.message.id;
        self.position.before_post = id;
        self.position.posts += 1;
        if !post.has_comments {
            self.position.closed += 1;
            return Ok(true);
        }
        if replies == 0 {
            return Ok(true);
        }
        let Some(group) = self.context.telegram.discussion(self.chat, id).await? else {
            self.position.closed += 1;
            return Ok(true);
        };
        self.context.store.save_chat(&group).await?;
        self.position.counted += replies;
        self.position.open = Some(Open {
            post: id,
            chat_id: group.id,
            before: 0,
            read: 0,
        });
        Ok(true)
    }

    async fn next_post(&mut self) -> Result<Option<ScannedMessage>, Outcome> {
        while self.posts.queue.is_empty() && !self.posts.ended {
            self.fill().await?;
        }
        Ok(self.posts.queue.pop_front())
    }

    /// The named posts that were not asked for yet.
    fn left_posts(&self) -> impl Iterator<Item = i32> {
        let (below, asked) = (self.position.before_post, self.posts.asked);
        let posts = self.posts.wanted.posts.iter().copied();
        posts.filter(move |id| (below == 0 || *id < below) && asked.is_none_or(|asked| *id < asked))
    }

    async fn fill(&mut self) -> Result<(), Outcome> {
        let below = self.position.before_post;
        if let Some(newest) = self.posts.wanted.newest() {
            let left = i64::from(newest) - self.position.posts;
            let limit = i32::try_from(left).unwrap_or(0).min(PAGE);
            if limit < 1 {
                self.posts.ended = true;
                return Ok(());
            }
            let cut = MessageCut { before: below, limit };
            let page = self.context.telegram.messages(self.chat, cut).await?;
            self.posts.ended = page.oldest <= 1;
            let posts = page.messages.into_iter();
            self.posts
                .queue
                .extend(posts.filter(|post| post.message.service.is_none()));
            if self.posts.queue.is_empty() {
                self.position.before_post = page.oldest;
            }
            return Ok(());
        }
        let size = usize::try_from(PAGE).unwrap_or(1);
        let ids: Vec<i32> = self.left_posts().take(size).collect();
        let Some(lowest) = ids.last().copied() else {
            self.posts.ended = true;
            return Ok(());
        };
        let mut found = self.context.telegram.posts(self.chat, &ids).await?;
        found.sort_unstable_by_key(|post| Reverse(post.message.id));
        let missing = i64::try_from(ids.len() - found.len().min(ids.len())).unwrap_or(0);
        self.position.closed += missing;
        self.position.posts += missing;
        self.posts.asked = Some(lowest);
        self.posts.queue.extend(found);
        Ok(())
    }

    async fn page(&mut self, open: Open) -> Result<(), Outcome> {
        let cut = MessageCut {
            before: open.before,
            limit: self.bound.room(self.tally.seen, PAGE),
        };
        let mut page = self.context.telegram.comments(self.chat, open.post, cut).await?;
        Downloads::plan(self.downloads.as_ref(), &mut page.messages);
        let read = open.read + i64::try_from(page.messages.len()).unwrap_or(0);
        let is_last = page.oldest == 0 || page.count.is_some_and(|count| read >= count);
        self.position.open = (!is_last).then_some(Open {
            before: page.oldest,
            read,
            ..open
        });
        let checkpoint = checkpoint_value(&self.position)?;
        // How many there will be is known when the last post was looked at.
        let (of, posts) = (self.bound.total(None), self.position.posts);
        self.rate.tick(self.context);
        let rate = &self.rate;
        let end = |tally: Tally| PageEnd {
            checkpoint: checkpoint.clone(),
            progress: rate.progress(tally.seen, of),
            line: LogLine::new("page_stored", "A page of comments is stored.")
                .with("messages", i64::try_from(page.messages.len()).unwrap_or(i64::MAX))
                .with("seen", tally.seen)
                .with("posts", posts),
        };
        let store = &self.context.store;
        self.tally = store
            .save_messages(open.chat_id, 0, Some(open.post), &page.messages, &end)
            .await?;
        Ok(())
    }

    /// Whether there are comments that were not looked for, or posts of which that is not known.
    fn is_more_left(&self) -> bool {
        let is_commented = |post: &ScannedMessage| post.has_comments && post.replies.unwrap_or(0) > 0;
        if self.position.open.is_some() || self.posts.queue.iter().any(is_commented) {
            return true;
        }
        if self.posts.ended {
            return false;
        }
        match self.posts.wanted.newest() {
            Some(newest) => {
                let queued = i64::try_from(self.posts.queue.len()).unwrap_or(0);
                self.position.posts + queued < i64::from(newest)
            }
            None => self.left_posts().next().is_some(),
        }
    }

    fn ended_because(&self) -> Option<Incomplete> {
        let is_cut = self.tally.seen < self.position.counted || self.is_more_left();
        if self.bound.is_reached(self.tally.seen) && is_cut {
            Some(self.bound.reason())
        } else if self.position.closed > 0 {
            Some(Incomplete::CommentsClosed)
        } else if self.tally.seen < self.position.counted {
            Some(self.tally.short_of(Some(self.position.counted)))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
