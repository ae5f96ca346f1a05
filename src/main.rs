//! The `llamafs` command.
fn main() -> std::process::ExitCode {
    llamafs::cli::main()
}
