/* Failures, their words and their prose. */
#include "errors.h"

#include <stddef.h>
#include <string.h>

static const struct {
  int err;
  const char *word, *text;
} own[] = {
  { SD_ETIMEOUT, "timeout", "nothing came in time" },
  { SD_ECLOSED, "closed", "the connection is closed" },
  { SD_ESHUTDOWN, "shutdown", "the server is draining" },
  { SD_EOUTDATED, "outdated", "a newer generation is live" },
  { SD_ELIMIT, "limit", "longer than its limit allows" },
  { SD_EBUSY, "busy", "another task is already at it" },
  { SD_EMESSAGE, "message", "a message has come" },
  { SD_EFULL, "full", "there is no room for it" },
  { SD_EEXISTS, "exists", "there is one already" },
  { SD_ECHANGED, "changed", "it is not what was expected" },
  { SD_ETYPE, "type", "what is there is of another type" },
  { SD_EGONE, "gone", "the task or connection has ended" },
};

enum { OWN = sizeof own / sizeof own[0], LAST_ERRNO = 133 };

const char *sd_error_word(int err) {
  for (size_t i = 0; i < OWN; i++)
    if (own[i].err == err) return own[i].word;
  const char *name = strerrorname_np(-err);
  return name != NULL ? name : "EUNKNOWN";
}

int sd_error_named(const char *word) {
  for (size_t i = 0; i < OWN; i++)
    if (strcmp(own[i].word, word) == 0) return own[i].err;
  for (int e = 1; e <= LAST_ERRNO; e++) {
    const char *name = strerrorname_np(e);
    if (name != NULL && strcmp(name, word) == 0) return -e;
  }
  return 0;
}

const char *sd_error_text(int err) {
  for (size_t i = 0; i < OWN; i++)
    if (own[i].err == err) return own[i].text;
  return strerror(-err);
}
