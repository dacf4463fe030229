package emulator

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// retention is how many days what was deleted can be recovered where the seed does not say.
const retention = 90

// recoveryLevel is how the service describes what happens to a deleted object.
func (v *vaultState) recoveryLevel() string {
	level := "Recoverable"
	if v.retention != retention {
		level = "CustomizedRecoverable"
	}
	if v.purgeProtection {
		return level
	}
	return level + "+Purgeable"
}

// purgeDate is when the service purges a deleted object by itself.
func (v *vaultState) purgeDate(o *object) time.Time { return o.deletedAt.AddDate(0, 0, v.retention) }

// gone reports whether the time has passed in which a deleted object can be recovered.
func (v *vaultState) gone(o *object) bool { return o.deleted && !v.now().Before(v.purgeDate(o)) }

// softDelete deletes an object, which can be recovered or purged. A certificate's secret and key go with it.
func (v *vaultState) softDelete(c *call) (reply, slow) {
	o, n, missing := v.lookup(c.route)
	if missing != nil {
		return *missing, nil
	}
	if bad := c.unmanaged(o); bad != nil {
		return *bad, nil
	}
	v.remove(c.kind, o, true)
	return v.answer(c, o, n), nil
}

// recover undoes softDelete.
func (v *vaultState) recover(c *call) (reply, slow) {
	o, n, missing := v.lookup(c.route)
	if missing != nil {
		return *missing, nil
	}
	if bad := c.unmanaged(o); bad != nil {
		return *bad, nil
	}
	v.remove(c.kind, o, false)
	return v.answer(c, o, n), nil
}

// purge removes a deleted object for good.
func (v *vaultState) purge(c *call) (reply, slow) {
	o, _, missing := v.lookup(c.route)
	if missing != nil {
		return *missing, nil
	}
	if bad := c.unmanaged(o); bad != nil {
		return *bad, nil
	}
	if v.purgeProtection {
		message := fmt.Sprintf("Operation \"purge\" is not allowed because purge protection is enabled for this vault. Key Vault "+
			"service will automatically purge it after the retention period has passed.\r\nVault: %s;location=%s", v.name, location)
		return refusal(http.StatusForbidden, "Forbidden", message, "ForbiddenByPolicy"), nil
	}
	v.forget(c.kind, o)
	return reply{status: http.StatusNoContent}, nil
}

// forget removes an object; with a certificate, its secret and its key too.
func (v *vaultState) forget(kind string, o *object) {
	for _, side := range v.kindsOf(kind, o) {
		delete(v.objects, objectKey{side, strings.ToLower(o.name)})
	}
}
