/* One vocabulary of failures from system call to Lua: 0 is success, -errno the
 * kernel's, and these the ones that are ours. */
#ifndef SD_ERRORS_H
#define SD_ERRORS_H

enum {
  SD_ETIMEOUT = -20001,  /* "timeout" */
  SD_ECLOSED = -20002,   /* "closed": end of the stream, or closed already */
  SD_ESHUTDOWN = -20003, /* "shutdown": draining, said once */
  SD_EOUTDATED = -20004, /* "outdated": a newer generation is live */
  SD_ELIMIT = -20005,    /* "limit" */
  SD_EBUSY = -20006,     /* "busy": somebody else reads already */
  SD_EMESSAGE = -20007,  /* "message": one lies in the reader's mailbox */
  SD_EFULL = -20020,     /* "full": of a store */
  SD_EEXISTS = -20021,   /* "exists": the key has a value */
  SD_ECHANGED = -20022,  /* "changed": it has another value */
  SD_ETYPE = -20023,     /* "type": of the value that is there */
  SD_EGONE = -20024,     /* "gone": the task has ended */
};

/* The stable word of a failure: one of the above, else the errno name. */
const char *sd_error_word(int err);

/* The failure of a word, 0 for an unknown one. */
int sd_error_named(const char *word);

/* A sentence for people. */
const char *sd_error_text(int err);

#endif
