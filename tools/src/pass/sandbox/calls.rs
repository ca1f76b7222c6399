//! System calls that programs do without: those that get memory which belongs to no process, so that none could be
//! ended for it.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// `MAP_SHARED | MAP_ANONYMOUS`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const SHARED: u64 = 0x21;

/// Refuses them to this process and all that it becomes or starts: they fail as on a system that does not know them. No new
/// privileges must be wanted any more.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) fn refuse() -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("a filter of system calls: {e}");
    let arch = std::env::consts::ARCH.try_into().map_err(|e| failed(&e))?;
    // Shared memory of no file stays when it is dropped from a process.
    let shared = SeccompCondition::new(3, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(SHARED), SHARED);
    let shared = shared.and_then(|condition| SeccompRule::new(vec![condition])).map_err(|e| failed(&e))?;
    let rules = [
        (nix::libc::SYS_memfd_create, vec![]),
        (nix::libc::SYS_memfd_secret, vec![]),
        (nix::libc::SYS_shmget, vec![]),
        (nix::libc::SYS_mmap, vec![shared]),
    ];
    let filter = SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(nix::libc::ENOSYS as u32),
        arch,
    );
    let program: BpfProgram = filter.and_then(BpfProgram::try_from).map_err(|e| failed(&e))?;
    seccompiler::apply_filter(&program).map_err(|e| failed(&e))
}

/// The crate that writes filters knows no others.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn refuse() -> Result<(), String> {
    Ok(())
}
