//! The `treestrap` program: starts, and delegates to [`treestrap::cli`].

fn main() -> std::process::ExitCode {
    sandbox::init(); // the program is also the helper that holds a sandbox's namespace
    treestrap::cli::main()
}
