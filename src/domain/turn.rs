//! Turns: the live side of an answer.
use serde::Serialize;

/// Where a turn stands. The numbers are stored; 1 to 4 are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(i32)]
pub enum TurnState {
    Started = 1,
    Streaming = 2,
    ToolCall = 3,
    AwaitingApproval = 4,
    Final = 5,
    Aborted = 6,
    Error = 7,
    Interrupted = 8,
}

impl TurnState {
    pub fn from_code(code: i32) -> Option<Self> {
        [
            Self::Started,
            Self::Streaming,
            Self::ToolCall,
            Self::AwaitingApproval,
            Self::Final,
            Self::Aborted,
            Self::Error,
            Self::Interrupted,
        ]
        .into_iter()
        .find(|state| *state as i32 == code)
    }

    pub fn is_open(self) -> bool {
        (self as i32) < Self::Final as i32
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Streaming => "streaming",
            Self::ToolCall => "tool_call",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Final => "final",
            Self::Aborted => "aborted",
            Self::Error => "error",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What a step of a turn was. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(i32)]
pub enum StepKind {
    ToolCall = 1,
    ToolResult = 2,
    /// Text that the model said before its last answer.
    Text = 3,
    /// A failed attempt of the model that the gateway kept a row of.
    Error = 4,
}
