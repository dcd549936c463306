//! Promises of a shell, and ways to break them.

/// A promise that the simulated shell breaks on purpose, to see that the checks notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// None: the shell keeps its promises.
    #[default]
    None,
    /// A log write is reported done although its sync did nothing.
    WriteSyncLies,
    /// A prepared segment is reported synced although it is not.
    ZeroSyncLies,
    /// The directory is reported synced although it is not.
    DirectorySyncLies,
    /// Recovery's accepted bytes are not made durable again.
    HardenLies,
    /// A log write is reported done before it has landed.
    WriteReportedEarly,
    /// A checkpoint's file is reported synced although it is not.
    CheckpointSyncLies,
    /// The checkpoints' directory is reported synced although it is not.
    CheckpointDirectorySyncLies,
    /// A client's frame reaches the gateway twice.
    RequestTwice,
}

impl Sabotage {
    /// Every way there is to break a promise.
    pub const ALL: [Sabotage; 8] = [
        Sabotage::WriteSyncLies,
        Sabotage::ZeroSyncLies,
        Sabotage::DirectorySyncLies,
        Sabotage::HardenLies,
        Sabotage::WriteReportedEarly,
        Sabotage::CheckpointSyncLies,
        Sabotage::CheckpointDirectorySyncLies,
        Sabotage::RequestTwice,
    ];
}
