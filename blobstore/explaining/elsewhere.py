"""Codes of what lies outside: servers, other machines, the operating system."""

from __future__ import annotations

from blobstore.explaining.entry import Entry

REMOTE = {
    "unknown-scheme": Entry(
        "fsspec, which reads URLs, has no file system for this kind.", "Check the spelling of what stands before ://."
    ),
    "needs-remote": Entry(
        "URLs are read with fsspec and a package for each kind of server.",
        "Install what the message names, such as s3fs.",
    ),
    "needs-ranges": Entry("The server gives a file only as a whole.", "Download the file first."),
    "needs-size": Entry("The server doesn't say how large the file is.", "Download the file first."),
    "remote-missing": Entry("The file was removed from the server while it was read.", "Begin again once it is back."),
    "remote-changed": Entry("The file on the server was replaced while it was read.", "Begin again."),
    "remote-failed": Entry(
        "The server didn't answer, or with an error.", "The message has it. Try again; check the address and the login."
    ),
    "remote-short": Entry("The server sent fewer bytes than it was asked for.", "Try again."),
}
CLUSTER = {
    "no-scheduler": Entry(
        "No scheduler of Dask's answers at the address.", "Is it running, and can this machine reach it?"
    ),
    "scheduler-lost": Entry(
        "The scheduler ended, or can't be reached any more.",
        "Start it again, and repeat the command; convert --resume keeps what is complete.",
    ),
    "worker-lost": Entry(
        "Each worker that began one of the files died, most likely for want of memory.",
        "Give workers more memory, and repeat the command; convert --resume keeps what is complete.",
    ),
    "worker-setup": Entry("A worker lacks a package.", "Install the same packages on all machines."),
    "other-version": Entry("A worker has another version of blobstore.", "Install the same version on all machines."),
    "other-source": Entry(
        "A worker sees another checkpoint under the path.", "All machines must see the same source under the same path."
    ),
    "not-shared": Entry(
        "A worker doesn't find a file.", "All machines must see source and target under the same paths."
    ),
    "run-ended": Entry(
        "A worker got a task of a command that has ended.", "None needed: repeat the command if it failed."
    ),
}
SYSTEM = {
    "file-not-found": Entry("There is no such file or folder.", "Check the path; an output's folder has to exist."),
    "file-exists": Entry("Something has the name already.", "Choose another, or remove it."),
    "is-a-directory": Entry("A file is needed, and the path is a folder.", "Pass a file in it."),
    "not-a-directory": Entry("A part of the path, or the path, is a file where a folder is needed.", "Check the path."),
    "permission": Entry(
        "The system doesn't let you read or write this.", "Check the permissions; for a URL, the login."
    ),
    "os": Entry(
        "The system refused to read or write; the message is its own: a full disk, for example.",
        "Remove the cause, and repeat the command: the old file is unchanged.",
    ),
    "os-error": Entry(
        "The C++ reader: the system couldn't open or map the file; the message is its own.",
        "Check the path and the permissions.",
    ),
    "blocking-io": Entry(
        "The stream can't take more now, and can't be waited for.", "Write to a file, or to a stream that blocks."
    ),
    "child-process": Entry("The system has no such child process.", "Repeat the command."),
    "connection": Entry("The connection failed.", "Check the network, and try again."),
    "connection-aborted": Entry("The connection was ended on this side.", "Try again."),
    "connection-refused": Entry("The server refuses connections.", "Check the address, and that it is running."),
    "connection-reset": Entry("The server ended the connection.", "Try again."),
    "broken-pipe": Entry("The reader of a pipe has gone.", "None needed, if it had enough, as head has."),
    "interrupted": Entry("You stopped the command (Ctrl-C).", "Repeat it: the old file is unchanged."),
    "process-lookup": Entry("The system has no such process.", "Repeat the command."),
    "timeout": Entry("The system waited too long for an answer.", "Check the network, and try again."),
    "out-of-memory": Entry(
        "A tensor or a file doesn't fit into memory.",
        "Read some rows only (load(name, rows=…)), or use fewer --workers.",
    ),
    "bug": Entry("This is a fault of blobstore's own.", "Please report it; BLOBSTORE_TRACEBACK=1 shows where it is."),
}
