#include "ka_trouble.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ka_conf.h"
#include "ka_err.h"
#include "ka_wake.h"

static const int64_t RECENT_NS = 65000000000; /* librdkafka repeats what lasts every 30 s */
static const int64_t SURE_NS = 2000000000;
static const int64_t HIDING_NS = 5000000000; /* a host's other address may be refused meanwhile */

enum {
    PASSING, /* as far as we know */
    UNVERIFIED,
    AUTHORITY,
    HOST,
    EXPIRED,
    NOT_YET,
    REVOKED,
    NO_CERTIFICATE,
    CLIENT_REFUSED,
    HANDSHAKE,
    TO_PLAINTEXT,
    TO_TLS,
    WANTS_SASL,
    MECHANISM,
    NO_SASL,
    TOKEN,
    CREDENTIALS,
    OLD_SCRAM,
};

static const char *const words[] = {
    [UNVERIFIED] = "TLS: the broker's certificate could not be verified",
    [AUTHORITY] = "TLS: the broker's certificate is signed by an authority that is not trusted "
                  "here: name its certificate in ssl.ca.location",
    [HOST] = "TLS: the broker's certificate is for another host name: connect by a name that it "
             "holds, or have one issued that holds this name",
    [EXPIRED] = "TLS: the broker's certificate has expired: renew it, or correct this machine's "
                "clock",
    [NOT_YET] = "TLS: the broker's certificate is not valid yet: correct a clock",
    [REVOKED] = "TLS: the broker's certificate is revoked",
    [NO_CERTIFICATE] = "TLS: the broker wants a client certificate and got none that it takes: set "
                       "ssl.certificate.location and ssl.key.location",
    [CLIENT_REFUSED] =
        "TLS: the broker refused the client's certificate: see ssl.certificate.location",
    [HANDSHAKE] = "TLS: no connection",
    [TO_PLAINTEXT] =
        "TLS: the broker ended the handshake: its port does not speak TLS; use its TLS "
        "port, or set security.protocol to plaintext or sasl_plaintext",
    [TO_TLS] = "the broker closed the connection at once: its port may speak TLS, then set "
               "security.protocol to ssl or sasl_ssl",
    [WANTS_SASL] = "the broker closed the connection at the first request: its port may want SASL, "
                   "then set security.protocol to sasl_ssl or sasl_plaintext",
    [MECHANISM] = "SASL: the broker does not offer this sasl.mechanism",
    [NO_SASL] = "SASL: the broker's port does without: set security.protocol to ssl or plaintext",
    [TOKEN] = "SASL: there is no token",
    [CREDENTIALS] = "SASL: the broker refused the credentials: check sasl.username and "
                    "sasl.password, or the token",
    [OLD_SCRAM] =
        "SASL: the broker refused the credentials: check sasl.username and sasl.password, or the "
        "token; and "
        "Kafka "
        "3.8.1 or later refuses all SCRAM of librdkafka before 2.6.1 (its issue 4895), as this is",
};

/* What a report has in it. `unsure`: a broker that starts, or a proxy before it, may look the same for a moment, so
 * it counts only when it lasts, and only for a client that never had an answer. The first that fits; OpenSSL's texts
 * differ, so alerts are told by their numbers. */
static const struct {
    int code; /* 0: any */
    const char *sign;
    int unsure, cause;
} signs[] = {
    {0, "certificate verify failed", 0, UNVERIFIED},
    {0, "SSL alert number 42", 0, NO_CERTIFICATE},
    {0, "SSL alert number 116", 0, NO_CERTIFICATE},
    {0, "SSL alert number 43", 0, CLIENT_REFUSED},
    {0, "SSL alert number 44", 0, CLIENT_REFUSED},
    {0, "SSL alert number 45", 0, CLIENT_REFUSED},
    {0, "SSL alert number 46", 0, CLIENT_REFUSED},
    {0, "SSL alert number 48", 0, CLIENT_REFUSED},
    {0, "wrong version number", 0, TO_PLAINTEXT},
    {0, "connecting to a PLAINTEXT broker listener", 1, TO_PLAINTEXT},
    {RD_KAFKA_RESP_ERR__SSL, "unexpected eof while reading", 1, TO_PLAINTEXT},
    {RD_KAFKA_RESP_ERR__TRANSPORT, "in state SSL_HANDSHAKE", 1, TO_PLAINTEXT},
    {0, "connecting to a SSL listener", 1, TO_TLS},
    {0, "broker might require SASL", 1, WANTS_SASL},
    {RD_KAFKA_RESP_ERR__AUTHENTICATION, "nsupported SASL mechanism", 0, MECHANISM},
    {RD_KAFKA_RESP_ERR__AUTHENTICATION, "not valid in current SASL state", 0, NO_SASL},
    {RD_KAFKA_RESP_ERR__AUTHENTICATION, "OAUTHBEARER token", 0, TOKEN},
    {RD_KAFKA_RESP_ERR__AUTHENTICATION, "", 0, CREDENTIALS},
    {RD_KAFKA_RESP_ERR__SSL, "", 1, HANDSHAKE},
};

/* Why OpenSSL refuses a certificate, by its codes, which are the same in all versions. */
static int cause_of_verdict(int verdict)
{
    switch (verdict) {
    case 2:  /* issuer not found */
    case 7:  /* wrong signature */
    case 18: /* self-signed */
    case 19: /* self-signed in its chain */
    case 20: /* issuer not found here */
    case 21: /* a chain of one, not trusted */
    case 27: /* not trusted */
        return AUTHORITY;
    case 9:
        return NOT_YET;
    case 10:
        return EXPIRED;
    case 23:
        return REVOKED;
    case 62: /* host name */
    case 64: /* IP address */
        return HOST;
    default:
        return UNVERIFIED;
    }
}

void kai_trouble_init(kai_trouble *t)
{
    kai_secrets_init(&t->secrets);
    pthread_mutex_init(&t->lock, NULL);
}

void kai_trouble_fini(kai_trouble *t)
{
    kai_secrets_fini(&t->secrets);
    pthread_mutex_destroy(&t->lock);
}

/* OpenSSL has come to its verdict on one certificate of the broker's chain, and this agrees. */
/* NOLINTNEXTLINE(readability-non-const-parameter): its type is librdkafka's */
static int on_certificate(rd_kafka_t *rk, const char *broker, int32_t broker_id, int *verdict,
                          int depth, const char *certificate, size_t size, char *text,
                          size_t text_size, void *opaque)
{
    kai_trouble *t = opaque;

    (void)rk, (void)broker_id, (void)certificate, (void)size;
    pthread_mutex_lock(&t->lock);
    if (*verdict) {
        snprintf(t->broker, sizeof t->broker, "%s", broker);
        t->verdict = *verdict;
    } else if (depth == 0 && strcmp(t->broker, broker) == 0) {
        t->verdict = 0; /* it is valid by now */
    }
    pthread_mutex_unlock(&t->lock);
    if (*verdict)
        snprintf(text, text_size, "%s (OpenSSL's code %d)", words[cause_of_verdict(*verdict)],
                 *verdict);
    return *verdict == 0;
}

void kai_trouble_watch(ka_conf *conf)
{
    /* Where nothing is verified it would be asked all the same. */
    if (kai_conf_is(conf, "enable.ssl.certificate.verification", "true"))
        rd_kafka_conf_set_ssl_cert_verify_cb(conf->rd, on_certificate);
}

/* Under lock. Takes note of a report, and puts it into our words. Returns 0 if one that matters more stands. */
static int note(kai_trouble *t, rd_kafka_resp_err_t code, const char *reason, int cause, int unsure)
{
    char text[sizeof t->error.text];
    int64_t now = kai_now_ns();

    if (cause == UNVERIFIED && t->verdict && strstr(reason, t->broker))
        cause = cause_of_verdict(t->verdict);
    if (cause == CREDENTIALS && strstr(reason, "SCRAM") && rd_kafka_version() < 0x02060100)
        cause = OLD_SCRAM;
    if (cause == PASSING && t->cause != PASSING && now - t->at_ns < HIDING_NS)
        return 0;
    if (cause != PASSING)
        snprintf(text, sizeof text, "%s (%s)", words[cause], reason);
    kai_err_set(&t->error, code, cause == PASSING ? reason : text);
    t->error.retriable &= cause == PASSING;
    if (cause != t->cause)
        t->since_ns = now;
    t->cause = cause;
    t->unsure = unsure;
    t->at_ns = now;
    if (cause == t->told && now - t->told_ns <= RECENT_NS)
        t->told_ns = now;
    else if (cause != PASSING)
        atomic_store(&t->untold, 1);
    return 1;
}

static int note_what_fits(kai_trouble *t, rd_kafka_resp_err_t code, const char *reason)
{
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if ((!signs[i].code || signs[i].code == (int)code) && strstr(reason, signs[i].sign) &&
            !(signs[i].unsure && atomic_load(&t->answered)))
            return note(t, code, reason, signs[i].cause, signs[i].unsure);
    return note(t, code, reason, PASSING, 0);
}

/* Whether the code speaks of the way to the cluster; a denied group has no coordinator. */
static int is_of_connection(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
           code == RD_KAFKA_RESP_ERR__TRANSPORT || code == RD_KAFKA_RESP_ERR__RESOLVE ||
           code == RD_KAFKA_RESP_ERR__SSL || code == RD_KAFKA_RESP_ERR__AUTHENTICATION;
}

/* librdkafka quotes parts of the property that makes unsecured tokens when it can't read it. */
static void cut_description(char *text, size_t size)
{
    static const char name[] = "sasl.oauthbearer.config";
    const char *at = strstr(text, name);

    if (at)
        snprintf(text + (at - text), size - (size_t)(at - text),
                 "%s is refused (not shown, since it may be secret)", name);
}

void kai_trouble_event(kai_trouble *t, rd_kafka_resp_err_t code, const char *reason,
                       ka_error *error)
{
    char text[512];

    snprintf(text, sizeof text, "%s", reason);
    kai_secrets_hide(&t->secrets, text);
    cut_description(text, sizeof text);
    kai_err_set(error, code, text);
    if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
        atomic_store(&t->all_down, 1);
    if (!is_of_connection(code))
        return;
    pthread_mutex_lock(&t->lock);
    if (note_what_fits(t, code, text))
        *error = t->error;
    pthread_mutex_unlock(&t->lock);
}

/* A connection that the broker closes is no error for newer librdkafkas, just a line, and without the hint that older
 * ones add to their error when the connection is in such a state. */
static int cause_of_line(const char *line)
{
    const char *after = strstr(line, "(after ");

    if (!strstr(line, "Disconnected") || strstr(line, "might") || !after)
        return PASSING;
    if (!strstr(line, "ssl://") && strstr(after, "in state APIVERSION_QUERY"))
        return TO_TLS;
    if (!strstr(line, "sasl_") && strstr(after, "in state UP") &&
        strtol(after + 7, NULL, 10) < 2000)
        return WANTS_SASL;
    return PASSING;
}

int kai_trouble_line(kai_trouble *t, const char *facility, const char *line, char *text,
                     size_t size)
{
    const char *thread = strstr(line, "]: "); /* its name comes first */
    int cause;

    if (atomic_load(&t->answered) || strcmp(facility, "FAIL") != 0 ||
        !(cause = cause_of_line(line)))
        return 0;
    pthread_mutex_lock(&t->lock);
    note(t, RD_KAFKA_RESP_ERR__TRANSPORT, thread ? thread + 3 : line, cause, 1);
    snprintf(text, size, "%s", t->error.text);
    pthread_mutex_unlock(&t->lock);
    return 1;
}

int kai_trouble_last(kai_trouble *t, ka_error *error)
{
    int status = KA_EMPTY;

    pthread_mutex_lock(&t->lock);
    if (t->at_ns && kai_now_ns() - t->at_ns <= RECENT_NS) {
        *error = t->error;
        status = KA_OK;
    }
    pthread_mutex_unlock(&t->lock);
    return status;
}

int kai_trouble_is_final(kai_trouble *t, ka_error *error)
{
    int64_t now = kai_now_ns();
    int final;

    if (!atomic_load(&t->all_down))
        return 0;
    pthread_mutex_lock(&t->lock);
    final = t->cause != PASSING && now - t->at_ns <= RECENT_NS &&
            (!t->unsure || now - t->since_ns >= SURE_NS);
    if (final) {
        *error = t->error;
        error->retriable = t->unsure;
    }
    pthread_mutex_unlock(&t->lock);
    return final;
}

int kai_trouble_untold(kai_trouble *t, rd_kafka_t *rk, ka_error *error)
{
    int unsure, due;

    if (!atomic_load(&t->untold))
        return 0;
    pthread_mutex_lock(&t->lock);
    unsure = t->unsure;
    due = t->cause != PASSING && (!unsure || kai_now_ns() - t->since_ns >= SURE_NS);
    if (due) {
        atomic_store(&t->untold, 0);
        t->told = t->cause;
        t->told_ns = kai_now_ns();
        *error = t->error;
    }
    pthread_mutex_unlock(&t->lock);
    return due && !(unsure && rd_kafka_controllerid(rk, 0) >= 0);
}
