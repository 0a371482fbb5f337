/* The columns of a block and of a batch, KA_COLUMNS of them, in the order of ka_api.h; kafka_async/_columns.py has it too. */
#ifndef KA_COLUMNS_H
#define KA_COLUMNS_H

enum {
    TOPIC,
    PARTITION,
    OFFSET,
    TIMESTAMP_MS,
    TIMESTAMP_TYPE,
    VALUE_AT,
    VALUE_END,
    KEY_AT,
    KEY_END,
    HEADERS_AT,
    HEADERS_END
};

#endif
