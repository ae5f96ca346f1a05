//! The `llamafs` command.

/// What is small finds memory when there is none for what is large.
#[global_allocator]
static MEMORY: llamafs::io::ReservingAllocator = llamafs::io::ReservingAllocator;

fn main() -> std::process::ExitCode {
    llamafs::cli::main()
}
