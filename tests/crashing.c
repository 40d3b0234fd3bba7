// Makes the n-th call of the C library that touches the disk fail, or kills the process there.
// Built and preloaded by tests/test_crash.py. Counts from crash_arm on, and only calls on files and folders.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int left = -1;  // calls until the one that is met; below 0: none
static int code;              // errno of its failure; 0: the process is killed
static const char* met = "";

void crash_arm(int at, int error) {
  met = "";
  code = error;
  left = at;
}
const char* crash_met(void) {
  left = -1;
  return met;
}

static int hit(const char* name) {
  if (left < 0 || atomic_fetch_sub(&left, 1) != 0) return 0;
  met = name;
  if (!code) kill(getpid(), SIGKILL);
  errno = code;
  return 1;
}

static int on_disk(int fd) {
  struct stat info;
  int before = errno;
  int found = left >= 0 && fstat(fd, &info) == 0 && (S_ISREG(info.st_mode) || S_ISDIR(info.st_mode));
  errno = before;
  return found;
}

#define WRAP(result, name, parameters, arguments, counted)       \
  result name parameters {                                       \
    static result(*real) parameters;                             \
    if (!real) *(void**)&real = dlsym(RTLD_NEXT, #name);         \
    return (counted) && hit(#name) ? (result)-1 : real arguments; \
  }

WRAP(ssize_t, write, (int fd, const void* data, size_t n), (fd, data, n), on_disk(fd))
WRAP(ssize_t, writev, (int fd, const struct iovec* data, int n), (fd, data, n), on_disk(fd))
WRAP(ssize_t, pwrite64, (int fd, const void* data, size_t n, off64_t at), (fd, data, n, at), on_disk(fd))
WRAP(int, fsync, (int fd), (fd), on_disk(fd))
WRAP(int, fdatasync, (int fd), (fd), on_disk(fd))
WRAP(int, ftruncate64, (int fd, off64_t n), (fd, n), on_disk(fd))
WRAP(int, rename, (const char* from, const char* to), (from, to), 1)
WRAP(int, renameat, (int a, const char* from, int b, const char* to), (a, from, b, to), 1)
WRAP(int, linkat, (int a, const char* from, int b, const char* to, int flags), (a, from, b, to, flags), 1)
WRAP(int, unlink, (const char* path), (path), 1)
WRAP(ssize_t, sendfile64, (int to, int from, off64_t* at, size_t n), (to, from, at, n), 1)
WRAP(ssize_t, copy_file_range, (int from, off64_t* a, int to, off64_t* b, size_t n, unsigned flags),
     (from, a, to, b, n, flags), 1)

int open64(const char* path, int flags, ...) {
  static int (*real)(const char*, int, ...);
  if (!real) *(void**)&real = dlsym(RTLD_NEXT, "open64");
  va_list rest;
  va_start(rest, flags);
  int mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, int) : 0;
  va_end(rest);
  return (flags & O_ACCMODE) != O_RDONLY && hit("open64") ? -1 : real(path, flags, mode);
}
