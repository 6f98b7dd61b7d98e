"""The sandboxed child process that opens untrusted media. Nothing outside of it loads a decoder."""
