//! `[limits]`: what clients may send and what is held for them (LIM-1). Each limit has its own error code and counter.
use serde::Deserialize;

use super::error::ConfigError;
use super::section::{KIB, MIB, Ranged, Section, Shown, listed, ranged};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Body of a request (413 `payload_too_large`). Four of the longest messages, or a small file.
    pub body_bytes_max: usize,
    /// One WebSocket frame from a browser (close 1009). As a body, so that both doors take the same things.
    pub frame_bytes_max: usize,
    /// Text of one message (413 `message_too_large`). A long book chapter; models read no more at a time.
    pub message_bytes_max: usize,
    /// All headers of a request (431 `header_too_large`). Twice what browsers send with full cookies.
    pub header_bytes_max: usize,
    /// One page of any list; it ends there even if more rows were asked for.
    pub page_bytes_max: usize,
    /// Rows of one page, whatever `limit` says. The ancestors' clients ask for 500 at most.
    pub page_rows_max: usize,
    /// Levels of nesting in JSON. Real requests have less than ten; deep ones only cost stack.
    pub json_depth_max: usize,
    /// Sockets of browsers and agents on this node. 11 KiB each when idle; the usual bound on open files comes soon after.
    pub sockets_max: usize,
    /// Sockets of one user, so that one broken client does not take the places of all.
    pub sockets_per_user_max: usize,
    /// Sockets of one agent: a few, since it holds one for each of its processes.
    pub sockets_per_agent_max: usize,
    /// Sessions that one socket may watch: more than any side bar shows.
    pub watched_sessions_per_socket_max: usize,
    /// Bytes that wait for one slow browser; then it is closed with 1013 and may resume.
    pub outbox_bytes_max: usize,
    /// Frames that wait for one slow browser: small ones cost more than their bytes.
    pub outbox_frames_max: usize,
    /// Frames a second that one browser socket may send in the long run; people and their pages need a few.
    pub frames_per_second_max: u32,
    /// Frames it may send at once: a page that opens asks for all its sessions.
    pub frames_burst_max: u32,
    /// Frames that wait for one worker's hub: a quarter of a second at the highest rate that was measured.
    pub hub_queue_max: usize,
    /// Lines that `resume` sends again; who is further behind gets `reset` and loads a page, which is cheaper.
    pub resume_lines_max: usize,
    /// Lines imported from a gateway at first contact with a session, newest first.
    pub import_lines_max: usize,
    /// Questions that wait in one session (429 `mailbox_full`): each waits for the answer before it.
    pub queued_per_session_max: usize,
    /// Gateways that may be registered; each keeps a connection and an actor.
    pub gateways_max: usize,
    /// Agents that may be registered (429 `rate_limited`). Their keys are held in memory, some 300 bytes each.
    pub agents_max: usize,
    /// Keys of one agent that count at the same time (429 `rate_limited`): rotation needs two.
    pub keys_per_agent_max: usize,
    /// Relationships of one agent (429 `rate_limited`). Its poll carries all of them when they have changed.
    pub relationships_per_agent_max: usize,
    /// Open messages of one agent (429 `mailbox_full`). Some 120 bytes of memory each while its mailbox is open.
    pub mailbox_messages_max: usize,
    /// Polls that wait at a time (429 `rate_limited`); each is a connection.
    pub waiting_polls_max: usize,
    /// Waiting polls of one agent, so that a broken one does not take the places of all.
    pub waiting_polls_per_agent_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 1_048_576,
            frame_bytes_max: 1_048_576,
            message_bytes_max: 262_144,
            header_bytes_max: 16_384,
            page_bytes_max: 4_194_304,
            page_rows_max: 500,
            json_depth_max: 64,
            sockets_max: 20_000,
            sockets_per_user_max: 1_000,
            sockets_per_agent_max: 100,
            watched_sessions_per_socket_max: 500,
            outbox_bytes_max: 1_048_576,
            outbox_frames_max: 2_000,
            frames_per_second_max: 50,
            frames_burst_max: 200,
            hub_queue_max: 65_536,
            resume_lines_max: 5_000,
            import_lines_max: 10_000,
            queued_per_session_max: 1_000,
            gateways_max: 256,
            agents_max: 200_000,
            keys_per_agent_max: 16,
            relationships_per_agent_max: 1_000,
            mailbox_messages_max: 100_000,
            waiting_polls_max: 20_000,
            waiting_polls_per_agent_max: 1_000,
        }
    }
}

impl Section for Limits {
    const NAME: &'static str = "limits";

    fn shown(&self) -> Vec<Shown> {
        listed!(self {
            body_bytes_max,
            frame_bytes_max,
            message_bytes_max,
            header_bytes_max,
            page_bytes_max,
            page_rows_max,
            json_depth_max,
            sockets_max,
            sockets_per_user_max,
            sockets_per_agent_max,
            watched_sessions_per_socket_max,
            outbox_bytes_max,
            outbox_frames_max,
            frames_per_second_max,
            frames_burst_max,
            hub_queue_max,
            resume_lines_max,
            import_lines_max,
            queued_per_session_max,
            gateways_max,
            agents_max,
            keys_per_agent_max,
            relationships_per_agent_max,
            mailbox_messages_max,
            waiting_polls_max,
            waiting_polls_per_agent_max,
        })
    }

    fn ranges(&self) -> Vec<Ranged> {
        ranged!(self {
            body_bytes_max: KIB..=256 * MIB,
            frame_bytes_max: KIB..=64 * MIB,
            message_bytes_max: 256..=64 * MIB,
            // actix reads no more than 128 KiB of headers.
            header_bytes_max: 4 * KIB..=128 * KIB,
            page_bytes_max: 64 * KIB..=256 * MIB,
            page_rows_max: 1..=10_000,
            // serde_json stops at 128 by itself.
            json_depth_max: 8..=127,
            sockets_max: 1..=1_000_000,
            sockets_per_user_max: 1..=1_000_000,
            sockets_per_agent_max: 1..=1_000_000,
            watched_sessions_per_socket_max: 1..=100_000,
            outbox_bytes_max: 64 * KIB..=256 * MIB,
            outbox_frames_max: 16..=100_000,
            frames_per_second_max: 1..=100_000,
            frames_burst_max: 1..=1_000_000,
            hub_queue_max: 256..=16_777_216,
            resume_lines_max: 0..=1_000_000,
            import_lines_max: 0..=1_000_000,
            queued_per_session_max: 1..=100_000,
            gateways_max: 1..=10_000,
            agents_max: 1..=10_000_000,
            keys_per_agent_max: 1..=1_000,
            relationships_per_agent_max: 1..=10_000,
            mailbox_messages_max: 1..=1_000_000,
            waiting_polls_max: 1..=1_000_000,
            waiting_polls_per_agent_max: 1..=1_000_000,
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.not_greater("message_bytes_max", self.message_bytes_max, "body_bytes_max", self.body_bytes_max)?;
        self.not_greater("message_bytes_max", self.message_bytes_max, "frame_bytes_max", self.frame_bytes_max)?;
        self.not_greater("sockets_per_user_max", self.sockets_per_user_max, "sockets_max", self.sockets_max)?;
        let polls = self.waiting_polls_per_agent_max;
        self.not_greater("waiting_polls_per_agent_max", polls, "waiting_polls_max", self.waiting_polls_max)?;
        self.not_greater("frames_per_second_max", self.frames_per_second_max, "frames_burst_max", self.frames_burst_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_key_the_range_and_the_other_key() {
        let tiny = Limits { body_bytes_max: 3, ..Limits::default() };
        let long = Limits { message_bytes_max: 2_000_000, ..Limits::default() };
        let fast = Limits { frames_per_second_max: 300, ..Limits::default() };
        let many = Limits { sockets_max: 10, ..Limits::default() };
        for (limits, sentence) in [
            (tiny, "`limits.body_bytes_max` must be a whole number from 1024 to 268435456, not 3"),
            (
                long,
                "`limits.message_bytes_max` must not be greater than `limits.body_bytes_max`, 1048576, but is 2000000",
            ),
            (
                fast,
                "`limits.frames_per_second_max` must not be greater than `limits.frames_burst_max`, 200, but is 300",
            ),
            (many, "`limits.sockets_per_user_max` must not be greater than `limits.sockets_max`, 10, but is 1000"),
        ] {
            assert_eq!(limits.validate().expect_err(sentence).to_string(), sentence);
        }
    }
}
