/* Umbrella: what every C file of the shim sees of the contract. */
#ifndef KA_H
#define KA_H

#include <stddef.h>
#include <stdint.h>

#include "ka_api.h"

#endif
