package volume

import "time"

// SecretRepairInterval is how long a Kubernetes Secret that somebody changed may stay so: at the first refresh after
// it, the Secret is applied again from fresh values although nothing changed in the vault.
const SecretRepairInterval = 10 * time.Minute

// Snapshot is what the driver knows about one published volume at one moment. It is immutable: a change makes a new
// one. The mount itself is the source of truth for the files.
type Snapshot struct {
	Ref Ref
	// Identity names who asks the vault; no secret.
	Identity string
	// Since is when this process learned of the volume.
	Since time.Time
	// Objects are what the files are made of; nil where an earlier process wrote them.
	Objects []Object
	// Started maps the id of each object that the volume held since Since to the first version of it. For a volume that this process filled
	// these are the versions that the Pod started with, or got first where an object came later. It is immutable.
	Started map[string]string
	// Adopted is true where an earlier process filled the volume, so that Started says what this process saw first.
	Adopted bool
	// Bytes is the size of the files that this process wrote.
	Bytes int64
	// FetchedAt is when the oldest value of the volume was requested; zero where an earlier process wrote the files.
	FetchedAt time.Time
	// Interval is how often the volume is refreshed; 0 means never.
	Interval time.Duration
	// Stale is true while the files are last known good ones, because the vault could not be reached when the Pod
	// started.
	Stale bool
	// Fallback is the host of the fallback vault that values are from, while the first vault has not answered since the Pod started;
	// empty otherwise.
	Fallback string
	// Detection says how the last fetch found out what changed; empty where the class asks for nothing special.
	Detection Detection
	// Failure is why the files are not refreshed; nil while refreshes succeed.
	Failure *Failure
}

// Failure is a refresh that fails now.
type Failure struct {
	// Since is when the first failure of an unbroken series happened.
	Since  time.Time
	Reason Reason
	// Message is one line: that of the first failure with this reason, since later ones may differ in times alone.
	Message string
	// Latest is the newest failure's message.
	Latest string
}

// Next returns the failure that follows f, which may be nil, after err.
func (f *Failure) Next(now time.Time, err error) *Failure {
	next := &Failure{Since: now, Reason: ReasonOf(err), Message: err.Error(), Latest: err.Error()}
	if f != nil {
		next.Since = f.Since
		if f.Reason == next.Reason {
			next.Message = f.Message
		}
	}
	return next
}
