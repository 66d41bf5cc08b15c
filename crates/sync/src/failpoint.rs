//! Named points at which a test can end the process, as a power cut or a kill would.

/// A point in the course of a publish or an apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each name says after what it stands")]
pub enum Point {
    RequestClaimed,
    ClaimJournalled,
    WindowOpened,
    Cloned,
    Captured,
    WindowClosed,
    CaptureJournalled,
    Uploaded,
    RecordJournalled,
    RecordSet,
    PublishJournalled,
    RootStored,
    PackStored,
    Remembered,
    FirstSetAside,
    ObjectsSetAside,
    LookedAgain,
    FirstAsideEnded,
    AsidesEnded,
    RetirementWritten,
    SentHistoryWritten,
    ResponseWritten,
    RequestDiscarded,
    Downloaded,
    Staged,
    ApplyWindowOpened,
    ApplyJournalled,
    MarksRemoved,
    FirstExchange,
    AllExchanged,
    ExchangesSynced,
    FirstMark,
    AllMarks,
    CommitJournalled,
    ApplyWindowClosed,
    ReceivedHistoryWritten,
    LastApplyWritten,
    OldStateRemoved,
    FailureJournalled,
    FailureAnswered,
    TakeoverJournalled,
    TakeoverSet,
    TakeoverHistoryWritten,
    FenceRemoved,
    Unpacked,
    RefusalJournalled,
    TakeBackWindowOpened,
    TakeBackMarksRemoved,
    FirstPutBack,
    AllPutBack,
    PutBackSynced,
    FirstOldMark,
    OldMarksWritten,
    TakeBackJournalled,
    RefusalRemembered,
    RefusalTold,
    RefusedStateRemoved,
    Leased,
}

impl Point {
    /// The points of a publish, in their order.
    pub const PUBLISH: [Point; 13] = [
        Point::RequestClaimed,
        Point::ClaimJournalled,
        Point::WindowOpened,
        Point::Captured,
        Point::WindowClosed,
        Point::CaptureJournalled,
        Point::Uploaded,
        Point::RecordJournalled,
        Point::RecordSet,
        Point::PublishJournalled,
        Point::SentHistoryWritten,
        Point::ResponseWritten,
        Point::RequestDiscarded,
    ];

    /// The points that a later publish has besides, in their order.
    pub const LATER: [Point; 9] = [
        Point::RootStored,
        Point::PackStored,
        Point::Remembered,
        Point::FirstSetAside,
        Point::ObjectsSetAside,
        Point::LookedAgain,
        Point::FirstAsideEnded,
        Point::AsidesEnded,
        Point::RetirementWritten,
    ];

    /// The points at which a publish has clones, in their order.
    pub const CLONES: [Point; 3] = [Point::Cloned, Point::WindowClosed, Point::Captured];

    /// The points of a publish that fails, in their order.
    pub const FAILURE: [Point; 2] = [Point::FailureJournalled, Point::FailureAnswered];

    /// The points of a takeover, in their order.
    pub const TAKEOVER: [Point; 4] = [
        Point::TakeoverJournalled,
        Point::TakeoverSet,
        Point::TakeoverHistoryWritten,
        Point::FenceRemoved,
    ];

    /// The points of an import that end with nothing, in their order.
    pub const IMPORT_LOST: [Point; 2] = [Point::Unpacked, Point::Captured];

    /// The points of an import that end with its publish, in their order.
    pub const IMPORT_KEPT: [Point; 7] = [
        Point::ClaimJournalled,
        Point::Uploaded,
        Point::RecordJournalled,
        Point::RecordSet,
        Point::PublishJournalled,
        Point::SentHistoryWritten,
        Point::RequestDiscarded,
    ];

    /// The points at which an apply is taken back, in their order.
    pub const TAKE_BACK: [Point; 12] = [
        Point::RefusalJournalled,
        Point::TakeBackWindowOpened,
        Point::TakeBackMarksRemoved,
        Point::FirstPutBack,
        Point::AllPutBack,
        Point::PutBackSynced,
        Point::FirstOldMark,
        Point::OldMarksWritten,
        Point::TakeBackJournalled,
        Point::RefusalRemembered,
        Point::RefusalTold,
        Point::RefusedStateRemoved,
    ];

    /// The points of an apply, in their order.
    pub const APPLY: [Point; 15] = [
        Point::Downloaded,
        Point::Staged,
        Point::ApplyWindowOpened,
        Point::ApplyJournalled,
        Point::MarksRemoved,
        Point::FirstExchange,
        Point::AllExchanged,
        Point::ExchangesSynced,
        Point::FirstMark,
        Point::AllMarks,
        Point::CommitJournalled,
        Point::ApplyWindowClosed,
        Point::ReceivedHistoryWritten,
        Point::LastApplyWritten,
        Point::OldStateRemoved,
    ];
}

#[cfg(feature = "failpoints")]
static ARMED: std::sync::OnceLock<Point> = std::sync::OnceLock::new();

/// Ends this process by SIGKILL when it reaches `point`. Only tests build with this.
#[cfg(feature = "failpoints")]
pub fn arm(point: Point) {
    // Arming twice would be a fault of the test; the first holds.
    let _ = ARMED.set(point);
}

#[cfg(feature = "failpoints")]
pub(crate) fn reached(point: Point) {
    if ARMED.get() == Some(&point) {
        let me = rustix::process::getpid();
        let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn reached(_point: Point) {}
