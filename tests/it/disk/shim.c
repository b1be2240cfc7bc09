/* Stands between the broker and its files, loaded by LD_PRELOAD: writes down what was written and what was made durable
 * below SHIM_ROOT, so that a test can tell what a power cut would leave, and lets the disk fail on demand.
 *
 * SHIM_JOURNAL  the file that the notes go to, see `struct note`
 * SHIM_FAULTS   a folder; while `sync` is in it each fsync fails, while `space` is in it no file can grow
 * SHIM_LIES     set: an fsync says that all is well and does nothing
 *
 * Nothing is really synced: what a killed process wrote stays with the kernel, and the test takes back what was not
 * synced. The memory that SQLite shares (-shm) is left out: it is changed through a mapping, where nobody can stand
 * between, and never synced. Whoever opens the database first empties it and makes it anew from the log, so a power cut
 * may take all of it. It grows rarely, by 32 KiB for some 4,000 pages of the log; in tmpfs.rs it finds no room either.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { MADE = 1, WROTE, CUT, SYNCED, LOST, RENAMED, GONE };

/* What comes before a path and bytes in the journal. Little-endian, as all machines that run this. */
struct note {
  uint32_t op;
  uint32_t path_len;
  uint32_t data_len;
  uint32_t zero;
  uint64_t at;
};

#define FILES_MAX 65536

static char *names[FILES_MAX]; /* of the open files that we watch */
static const char *root, *faults, *lies;
static int journal = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_truncate)(int, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("SHIM_JOURNAL");
  real_open = dlsym(RTLD_NEXT, "open64");
  real_close = dlsym(RTLD_NEXT, "close");
  real_rename = dlsym(RTLD_NEXT, "rename");
  real_unlink = dlsym(RTLD_NEXT, "unlink");
  real_truncate = dlsym(RTLD_NEXT, "ftruncate64");
  real_write = dlsym(RTLD_NEXT, "write");
  real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
  root = getenv("SHIM_ROOT");
  faults = getenv("SHIM_FAULTS");
  lies = getenv("SHIM_LIES");
  if (path != NULL && root != NULL && faults != NULL) {
    journal = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  }
}

/* Tells whether a path is one of the broker's files. */
static int watched(const char *path) {
  size_t length = strlen(path), shm = strlen("-shm");
  return journal >= 0 && strncmp(path, root, strlen(root)) == 0 &&
         (length < shm || strcmp(path + length - shm, "-shm") != 0);
}

static char *name_of(int fd) { return fd >= 0 && fd < FILES_MAX ? names[fd] : NULL; }

static int fails(const char *how) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/%s", faults, how);
  return access(path, F_OK) == 0;
}

static void tell(enum op op, const char *path, uint64_t at, const void *data, size_t length) {
  struct note note = {op, (uint32_t)strlen(path), (uint32_t)length, 0, at};
  struct iovec parts[] = {{&note, sizeof note}, {(void *)path, note.path_len}, {(void *)data, length}};
  if (writev(journal, parts, 3) != (ssize_t)(sizeof note + note.path_len + length)) {
    abort(); /* a test without its journal would prove nothing */
  }
}

static int opened(const char *path, int flags, mode_t mode) {
  struct stat before;
  int fd, there, saved;
  if (!watched(path)) {
    return real_open(path, flags, mode);
  }
  pthread_mutex_lock(&lock);
  there = stat(path, &before) == 0;
  fd = real_open(path, flags, mode);
  saved = errno;
  if (fd >= 0 && fd < FILES_MAX) {
    free(names[fd]);
    names[fd] = strdup(path);
    if (!there) {
      tell(MADE, path, 0, NULL, 0);
    } else if (flags & O_TRUNC) {
      tell(CUT, path, 0, NULL, 0);
    }
  }
  pthread_mutex_unlock(&lock);
  errno = saved;
  return fd;
}

static mode_t mode_of(int flags, va_list rest) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; }

int open(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return opened(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return opened(path, flags, mode);
}

int close(int fd) {
  if (name_of(fd) != NULL) {
    pthread_mutex_lock(&lock);
    free(names[fd]);
    names[fd] = NULL;
    pthread_mutex_unlock(&lock);
  }
  return real_close(fd);
}

/* Returns how much of a write finds room: a full disk takes what is there already and no more. */
static ssize_t room(int fd, size_t length, off_t at) {
  struct stat now;
  if (!fails("space") || fstat(fd, &now) != 0 || at + (off_t)length <= now.st_size) {
    return (ssize_t)length;
  }
  if (at >= now.st_size) {
    errno = ENOSPC;
    return -1;
  }
  return now.st_size - at;
}

static ssize_t written(int fd, const void *data, size_t length, off_t at, int moves) {
  ssize_t done;
  int saved;
  pthread_mutex_lock(&lock);
  if (moves) {
    at = fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
  }
  done = room(fd, length, at);
  if (done > 0) {
    done = moves ? real_write(fd, data, (size_t)done) : real_pwrite(fd, data, (size_t)done, at);
  }
  saved = errno;
  if (done > 0) {
    tell(WROTE, names[fd], (uint64_t)at, data, (size_t)done);
  }
  pthread_mutex_unlock(&lock);
  errno = saved;
  return done;
}

ssize_t write(int fd, const void *data, size_t length) {
  return name_of(fd) == NULL ? real_write(fd, data, length) : written(fd, data, length, 0, 1);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at) {
  return name_of(fd) == NULL ? real_pwrite(fd, data, length, at) : written(fd, data, length, at, 0);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) { return pwrite(fd, data, length, at); }

int ftruncate(int fd, off_t length) {
  int done;
  if (name_of(fd) == NULL) {
    return real_truncate(fd, length);
  }
  pthread_mutex_lock(&lock);
  done = real_truncate(fd, length);
  if (done == 0) {
    tell(CUT, names[fd], (uint64_t)length, NULL, 0);
  }
  pthread_mutex_unlock(&lock);
  return done;
}

int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

int fsync(int fd) {
  int done = 0;
  if (name_of(fd) == NULL || lies != NULL) {
    return 0;
  }
  pthread_mutex_lock(&lock);
  if (fails("sync")) {
    tell(LOST, names[fd], 0, NULL, 0);
    done = -1;
  } else {
    tell(SYNCED, names[fd], 0, NULL, 0);
  }
  pthread_mutex_unlock(&lock);
  if (done != 0) {
    errno = EIO;
  }
  return done;
}

int fdatasync(int fd) { return fsync(fd); }

int rename(const char *from, const char *to) {
  int done, saved, fd;
  if (!watched(from) || !watched(to)) {
    return real_rename(from, to);
  }
  pthread_mutex_lock(&lock);
  done = real_rename(from, to);
  saved = errno;
  if (done == 0) {
    for (fd = 0; fd < FILES_MAX; fd++) {
      if (names[fd] != NULL && strcmp(names[fd], from) == 0) {
        free(names[fd]);
        names[fd] = strdup(to);
      }
    }
    tell(RENAMED, from, 0, to, strlen(to));
  }
  pthread_mutex_unlock(&lock);
  errno = saved;
  return done;
}

int unlink(const char *path) {
  int done, saved;
  if (!watched(path)) {
    return real_unlink(path);
  }
  pthread_mutex_lock(&lock);
  done = real_unlink(path);
  saved = errno;
  if (done == 0) {
    tell(GONE, path, 0, NULL, 0);
  }
  pthread_mutex_unlock(&lock);
  errno = saved;
  return done;
}
