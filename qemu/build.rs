//! Links the dispatcher (`dispatcher/`) to a flat file that `src/interpreter.rs` embeds.
//!
//! It can't be an ordinary dependency: it has neither std nor a C library, and a linker script of
//! its own. So it's compiled here, with the compiler, the target and the linker that cargo uses
//! for everything else, and always optimised: unoptimised code has panics, which need relocation.

use std::{env, error::Error, path::Path, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    for file in ["Cargo.toml", "image.ld", "src"] {
        println!("cargo::rerun-if-changed=dispatcher/{file}");
    }
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let output = env::var("OUT_DIR")?;
    let output = Path::new(&output);
    let image = output.join("dispatcher.image");
    let machine = env::var("CARGO_CFG_TARGET_ARCH")?;
    if env::var("CARGO_CFG_TARGET_OS")? != "linux" || !["x86_64", "aarch64"].contains(&machine.as_str()) {
        // `interpreter` says that this host has no dispatcher.
        std::fs::write(image, "")?;
        return Ok(());
    }
    let linked = output.join("dispatcher.elf");
    let library = output.join("libtreestrap_dispatcher.rlib");
    compile(
        Command::new(env::var("RUSTC")?)
            .args(["--crate-type=rlib", "--crate-name=treestrap_dispatcher"])
            .arg("dispatcher/src/lib.rs")
            .arg("-o")
            .arg(&library),
    )?;
    let script = env::current_dir()?.join("dispatcher/image.ld");
    let mut link = Command::new(env::var("RUSTC")?);
    link.args(["--crate-type=bin", "--crate-name=dispatcher"])
        .arg("dispatcher/src/image.rs")
        .arg("--extern")
        .arg(format!("treestrap_dispatcher={}", library.display()))
        .arg("-o")
        .arg(&linked)
        .args(["-Cstrip=symbols", "-Ctarget-feature=+crt-static"])
        .args(["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-Wl,--build-id=none"])
        .args(["-Clink-arg=-Wl,--no-dynamic-linker"])
        .arg(format!("-Clink-arg=-Wl,-T,{}", script.display()));
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        link.arg(format!("-Clinker={linker}"));
    }
    compile(&mut link)?;
    let content = std::fs::read(&linked)?;
    std::fs::write(image, code(&content).ok_or("the linker has not put all code into one segment at 0")?)?;
    Ok(())
}

/// The linked program's only segment: what has to be in memory. (GNU ld's `--oformat=binary` would do,
/// but for arm64 it cannot.) Layouts are elf(5)'s, 64 bits, least significant byte first.
fn code(elf: &[u8]) -> Option<&[u8]> {
    const LOAD: u64 = 1;
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at + size)?;
        Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let (headers, count) = (number(32, 8)? as usize, number(56, 2)? as usize);
    let mut loads = Vec::new();
    for header in (0..count).map(|index| headers + 56 * index) {
        let (offset, address, size) =
            (number(header + 8, 8)?, number(header + 16, 8)?, number(header + 32, 8)?);
        if number(header, 4)? == LOAD && size > 0 {
            loads.push((offset as usize, address, size as usize));
        }
    }
    match loads[..] {
        [(offset, 0, size)] if number(24, 8)? == 0 => elf.get(offset..offset + size),
        _ => None,
    }
}

fn compile(command: &mut Command) -> Result<(), Box<dyn Error>> {
    command.args(["--edition=2024", "--target"]).arg(env::var("TARGET")?);
    // Without relro the compiler calls functions directly; else it does so through a table of
    // addresses, which would need relocation.
    command.args(["-Copt-level=2", "-Cpanic=abort", "-Crelocation-model=pic", "-Crelro-level=off"]);
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}
