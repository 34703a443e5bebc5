/* The last rare things that have happened to a connection. */
#include "l_history.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/errors.h"
#include "net/connection.h"

enum { OLDER = SD_L_HISTORY - 1 };

static bool is_empty(const l_history *history) {
  return history->last.times == 0;
}

/* Without memory for it, it is forgotten. */
static void age(l_history *history) {
  if (is_empty(history)) return;
  if (history->older == NULL) history->older = calloc(OLDER, sizeof *history->older);
  if (history->older == NULL) return;
  history->older[history->next] = history->last;
  history->next = (uint8_t)((history->next + 1) % OLDER);
  if (history->count < OLDER) history->count++;
}

void sd_l_history_add(l_history *history, const l_event *event) {
  if (event->times == 0) return;
  age(history);
  history->last = *event;
}

void sd_l_history_note(l_history *history, uint64_t at, l_happening kind, uint32_t about) {
  l_event *last = &history->last;
  if (!is_empty(history) && last->kind == kind && last->about == about) {
    last->at = (uint32_t)at;
    if (last->times < UINT16_MAX) last->times++;
    return;
  }
  sd_l_history_add(history, &(l_event){ .at = (uint32_t)at, .about = about, .times = 1, .kind = (uint8_t)kind });
}

const l_event *sd_l_history_at(const l_history *history, unsigned i) {
  if (i < history->count) return &history->older[(history->next + OLDER - history->count + i) % OLDER];
  return i == history->count && !is_empty(history) ? &history->last : NULL;
}

void sd_l_history_free(l_history *history) {
  free(history->older);
  *history = (l_history){ 0 };
}

const char *sd_l_history_text(const l_event *event, char *room, unsigned size) {
  static const char *const ways[] = { "write", "read", "both" };
  unsigned about = event->about;
  switch ((l_happening)event->kind) {
    case L_WAITED:
      snprintf(room, size, "waited %.1fs for a place", about / 1000.0);
      break;
    case L_HANDSHAKE:
      return "handshake done";
    case L_ARRIVED:
      snprintf(room, size, "came from loop %u", about);
      break;
    case L_CHANGED:
      snprintf(room, size, "went on in generation %u", about);
      break;
    case L_READ:
      snprintf(room, size, "read: %s", sd_error_word((int32_t)about));
      break;
    case L_IDLE:
      return "read: idle timeout";
    case L_DRAINING:
      return "told to end";
    case L_SHUT:
      snprintf(room, size, "shut down: %s", about < 3 ? ways[about] : "?");
      break;
    case L_ENDED:
      snprintf(room, size, "ended: %s", about < SD_END_REASONS ? sd_end_name((sd_end)about) : "?");
      break;
    default:
      return "?"; /* noted by another version of the program */
  }
  return room;
}
