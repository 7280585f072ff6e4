//! The `treestrap` program: starts, and delegates to [`treestrap::cli`].

fn main() -> std::process::ExitCode {
    treestrap::cli::main()
}
