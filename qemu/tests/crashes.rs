//! Crashes as a real qemu-user has them: of the program, and of qemu itself.
//!
//! The programs are a few instructions of ARM code each, so no cross compiler is needed.

mod namespaces;

use std::{fs, path::PathBuf, process::Command};

use namespaces::{skip, unshare};
use qemu::{
    Architecture, Emulator,
    crash::{Fault, crashes},
    find,
    interpreter::interpreter,
    program::{Elf, LOAD},
    starts::Starts,
};

/// A static ARM program of these instructions (elf(5): Elf32_Ehdr, one Elf32_Phdr, the code).
fn program(code: &[u32]) -> Vec<u8> {
    const BASE: u32 = 0x10000;
    const HEADERS: u32 = 52 + 32;
    let size = HEADERS + 4 * code.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x28\0".to_vec();
    let words = [1, BASE + HEADERS, 52, 0, 0x0500_0000, 52 | 32 << 16, 1, 0];
    let header = [1, 0, BASE, BASE, size, size, 5, 0x1000];
    for word in words.into_iter().chain(header).chain(code.iter().copied()) {
        file.extend(word.to_le_bytes());
    }
    file
}

/// qemu, but its first instruction is none.
fn broken(emulator: &[u8]) -> Vec<u8> {
    let elf = Elf::parse(emulator).expect("qemu is an ELF file");
    let start = elf.segments.iter().filter(|segment| segment.kind == LOAD).find_map(|segment| {
        let inside = elf.entry.checked_sub(segment.address).filter(|inside| *inside < segment.file_size);
        inside.map(|inside| (segment.offset + inside) as usize)
    });
    let mut broken = emulator.to_vec();
    let start = start.expect("an entry point");
    // ud2 on amd64, and udf on arm64.
    let none = if cfg!(target_arch = "x86_64") { &[0x0f, 0x0b][..] } else { &[0; 4] };
    broken[start..start + none.len()].copy_from_slice(none);
    broken
}

/// This machine's qemu-arm, or that of the archive which the machine's apt uses; why there is none.
fn emulator(arm: &Architecture) -> Result<Emulator, String> {
    if let Ok(emulator) = Emulator::on_host(arm) {
        return Ok(emulator);
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("qemu-of-the-archive");
    let find = || {
        let programs = ["qemu-arm-static", "qemu-arm"].map(|name| folder.join("tree/usr/bin").join(name));
        programs.iter().find_map(|program| Emulator::at(program).ok())
    };
    if find().is_none() {
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part)).map_err(|error| error.to_string())?;
        }
        // Debian 12 has the static ones in a package of their own, later ones in qemu-user.
        let script = "
            apt() { apt-get -qq -o Dir::State=\"$PWD/state\" -o Dir::State::status=/dev/null -o Dir::Cache=\"$PWD/cache\" \
                -o APT::Sandbox::User= -o APT::Update::Post-Invoke= -o Acquire::Languages=none \"$@\"; }
            apt update
            apt download qemu-user-static || apt download qemu-user
            dpkg-deb -x qemu-user*.deb tree && rm qemu-user*.deb";
        let output = Command::new("sh").args(["-c", script]).current_dir(&folder).output();
        let output = output.map_err(|error| format!("sh: {error}"))?;
        if !output.status.success() {
            return Err(format!("no qemu-arm can be had: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    find().ok_or_else(|| "the archive's qemu-user has no static qemu-arm".to_owned())
}

#[test]
fn whose_fault_it_was() {
    let arm = find("armhf").expect("known");
    let emulator = match emulator(arm) {
        Ok(emulator) if emulator.version >= "6.0.0".parse().expect("a version") => emulator,
        Ok(emulator) => return skip(&format!("qemu {} does not understand P", emulator.version)),
        Err(error) => return skip(&error),
    };
    let Some((mut command, _)) = unshare() else {
        return skip("binfmt_misc cannot be mounted in a user namespace (Linux 6.7 can)");
    };
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("crashes-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for the test");
    for (name, code) in [
        // mov r0, #0; mov r7, #1 (exit); svc 0
        ("fine", &[0xe3a0_0000, 0xe3a0_7001, 0xef00_0000][..]),
        // mov r0, #0; ldr r0, [r0]
        ("reads-nothing", &[0xe3a0_0000, 0xe590_0000]),
        // udf #0
        ("no-instruction", &[0xe7f0_00f0]),
        // mov r7, #20 (getpid); svc 0; mov r1, #6; mov r7, #37 (kill); svc 0
        ("aborts", &[0xe3a0_7014, 0xef00_0000, 0xe3a0_1006, 0xe3a0_7025, 0xef00_0000]),
        // b .
        ("endless", &[0xeaff_fffe]),
    ] {
        fs::write(folder.join(name), program(code)).expect("a program");
    }
    let log = folder.join("log");
    fs::write(&log, "").expect("the log");
    let qemu = fs::read(&emulator.path).expect("qemu");
    let name = log.to_str().expect("UTF-8").as_bytes();
    for (name, bytes) in [
        ("whole", interpreter(&qemu, &[], name).expect("an interpreter")),
        ("broken", interpreter(&broken(&qemu), &[], name).expect("an interpreter")),
    ] {
        fs::write(folder.join(name), bytes).expect("written");
    }
    let script = format!(
        r#"
        mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
        register() {{ printf '%s' "$1" | sed "s:{{interpreter}}:$PWD/$2:" > /proc/sys/fs/binfmt_misc/register; }}
        chmod +x fine reads-nothing no-instruction aborts endless whole broken
        register '{line}' whole
        ./fine; ./reads-nothing; ./no-instruction; ./aborts; ./endless & sleep 0.3; kill -SEGV $!; wait
        echo -1 > /proc/sys/fs/binfmt_misc/qemu-armhf
        register '{line}' broken
        ./fine
        sleep 0.5
        "#,
        line = emulator.registration(arm).line,
    );
    let output = command.args(["sh", "-c", &script]).current_dir(&folder).output().expect("unshare");
    let said = String::from_utf8_lossy(&output.stderr);
    let starts = Starts::read(&fs::read(&log).expect("the log"));
    fs::remove_dir_all(&folder).expect("the folder is the test's own");
    assert_eq!((starts.emulated(), starts.unread, starts.running.len()), (6, 0, 0), "{said}");
    let found: Vec<_> = crashes(&starts, &said)
        .into_iter()
        .map(|crash| {
            let said = crash.said.is_some();
            (crash.program.map(|start| start.path), crash.signal, crash.fault, said)
        })
        .collect();
    let (segv, ill, abort) = (Some(11), Some(4), Some(6));
    if starts.killed.is_empty() {
        // Before Linux 6.15: only what qemu says.
        let (unclear, program) = (Fault::Unclear, Fault::Program);
        let said = [(segv, unclear), (ill, unclear), (abort, program), (segv, unclear)];
        let said: Vec<_> = said.into_iter().map(|(signal, fault)| (None, signal, fault, true)).collect();
        assert_eq!(found, said, "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let crash = |path: &str, signal, fault, said| (Some(path.to_owned()), signal, fault, said);
    let expected = [
        crash("./reads-nothing", segv, Fault::Unclear, true),
        crash("./no-instruction", ill, Fault::Unclear, true),
        crash("./aborts", abort, Fault::Program, true),
        crash("./endless", segv, Fault::Unclear, true),
        crash("./fine", ill, Fault::Unclear, false),
    ];
    assert_eq!(found, expected, "{}", String::from_utf8_lossy(&output.stderr));
}
