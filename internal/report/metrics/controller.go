package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// SyncResult is what came of a sync. The set is closed.
type SyncResult string

// The results of syncs.
const (
	SyncCreated   SyncResult = "created"
	SyncUpdated   SyncResult = "updated"
	SyncUnchanged SyncResult = "unchanged"
	SyncFailed    SyncResult = "failed"
)

// SyncStates counts SecretSyncs by how they are.
type SyncStates struct {
	Synced, Failing, Waiting int
	// Oldest is the earliest time since when an object is not what it asks for; zero where all are.
	Oldest time.Time
}

// PodSecretsState counts what the controller knows of Pods whose Secrets it writes.
type PodSecretsState struct {
	// Synced, Failing and Waiting count groups of Pods that share a class, a service account and volumeAttributes.
	Synced, Failing, Waiting int
	// Counted and Refused count status objects: whether the Pod bears them out.
	Counted, Refused int
}

// Controller are the metrics of what only the controller does. It implements prometheus.Collector.
type Controller struct {
	clock clock.PassiveClock

	syncs       *prometheus.CounterVec
	syncSeconds prometheus.ObserverVec

	events      *prometheus.CounterVec
	eventDelays prometheus.ObserverVec
	requested   *prometheus.CounterVec
	queueErrors *prometheus.CounterVec
	vectors

	podFetches, podWrites *prometheus.CounterVec

	restarts, restartsFailed, restartsSkipped *prometheus.CounterVec

	count, oldest, podGroups, podStatuses *prometheus.Desc

	mu         sync.Mutex
	states     func() SyncStates
	podSecrets func() PodSecretsState
}

// NewController returns metrics; register them with a registry.
func NewController(clk clock.PassiveClock) *Controller {
	c := &Controller{clock: clk}
	c.syncs = c.counter("keyvault_csi_secretsync_syncs_total", "Syncs of SecretSyncs, by result and reason (empty: success).", "result", "reason")
	c.syncSeconds = c.histogram("keyvault_csi_secretsync_duration_seconds", "How long a sync took, from the token to the Secret.", seconds())
	c.events = c.counter("keyvault_csi_events_total", "Key Vault's events, by what came of them.", "result")
	c.eventDelays = c.histogram("keyvault_csi_events_delay_seconds", "Time from an event of Key Vault until the refresh was asked for.",
		[]float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 3600})
	c.requested = c.counter("keyvault_csi_events_refreshes_total", "Classes that were asked to refresh because of Key Vault's events.")
	c.queueErrors = c.counter("keyvault_csi_events_queue_errors_total", "Requests to the queue of Key Vault's events that failed.")
	c.count = description("secretsyncs", "SecretSyncs that are served, by state: synced, failing or waiting.", "state")
	c.oldest = description("secretsync_oldest_unsynced_seconds",
		"Age of the oldest change of a SecretSync or its class, or the oldest failure, that no successful sync followed; 0 where there is none.")
	c.podFetches = c.counter("keyvault_csi_podsecrets_fetches_total",
		"Fetches for the Secrets of Pods, each for all Pods with the same class, service account and volumeAttributes, by reason (empty: success).", "reason")
	c.podWrites = c.counter("keyvault_csi_podsecrets_writes_total",
		"Secrets of Pods, by result: written, failed or conflict; what is not written counts for each Pod that asks for it.", "result")
	c.restarts = c.counter("keyvault_csi_restarts_total", "Workloads that were restarted because what their Pods read has new versions, by kind.", "kind")
	c.restartsFailed = c.counter("keyvault_csi_restarts_failed_total", "Restarts of workloads that the API server refused.")
	c.restartsSkipped = c.counter("keyvault_csi_restarts_skipped_total",
		"Looks at a workload that did not restart it, by why: annotation, secret, paused, rollout, interval, bound or owner.", "reason")
	c.podGroups = description("podsecrets_groups",
		"Groups of Pods whose Secrets the controller writes, by state: synced, failing or waiting.", "state")
	c.podStatuses = description("podsecrets_status_objects",
		"Status objects of classes with Secrets, by whether they count: refused where the Pod does not bear them out.", "result")
	for _, v := range []*prometheus.CounterVec{c.restartsFailed, c.queueErrors, c.requested} {
		v.WithLabelValues()
	}
	for _, result := range []SyncResult{SyncCreated, SyncUpdated, SyncUnchanged} {
		c.syncs.WithLabelValues(string(result), "") // a series exists before its first event, so that a rate sees it
	}
	return c
}

// SetStates says where the states of SecretSyncs are read from.
func (c *Controller) SetStates(states func() SyncStates) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.states = states
}

// SetPodSecrets says where the state of the Secrets of Pods is read from. Without it they have no gauges.
func (c *Controller) SetPodSecrets(state func() PodSecretsState) {
	c.podFetches.WithLabelValues("")
	for _, result := range []string{"written", "failed", "conflict"} {
		c.podWrites.WithLabelValues(result)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.podSecrets = state
}

// PodSecretsFetched counts a fetch for the Secrets of Pods; the reason is empty where it succeeded.
func (c *Controller) PodSecretsFetched(reason volume.Reason) {
	c.podFetches.WithLabelValues(string(reason)).Inc()
}

// PodSecretWritten counts what came of a Secret of Pods: written, failed or conflict.
func (c *Controller) PodSecretWritten(result string) { c.podWrites.WithLabelValues(result).Inc() }

// Restarted counts a workload of a kind that was restarted.
func (c *Controller) Restarted(kind string) { c.restarts.WithLabelValues(kind).Inc() }

// RestartFailed counts a restart that the API server refused.
func (c *Controller) RestartFailed() { c.restartsFailed.WithLabelValues().Inc() }

// RestartSkipped counts a look at a workload that did not restart it. Reason is one of a closed set.
func (c *Controller) RestartSkipped(reason string) { c.restartsSkipped.WithLabelValues(reason).Inc() }

// Synced counts a sync of a SecretSync.
func (c *Controller) Synced(result SyncResult, reason volume.Reason, took time.Duration) {
	c.syncs.WithLabelValues(string(result), string(reason)).Inc()
	c.syncSeconds.WithLabelValues().Observe(took.Seconds())
}

// Event counts an event of Key Vault. Result is one of a closed set.
func (c *Controller) Event(result string) { c.events.WithLabelValues(result).Inc() }

// EventServed notes how old an event was when the refresh was asked for. Clocks differ: it counts as 0 where that is negative.
func (c *Controller) EventServed(age time.Duration) {
	c.eventDelays.WithLabelValues().Observe(max(0, age).Seconds())
}

// RefreshRequested counts a class that was asked to refresh because of an event.
func (c *Controller) RefreshRequested() { c.requested.WithLabelValues().Inc() }

// QueueFailed counts a request to the queue of events that failed.
func (c *Controller) QueueFailed() { c.queueErrors.WithLabelValues().Inc() }

// Describe implements prometheus.Collector.
func (c *Controller) Describe(ch chan<- *prometheus.Desc) {
	c.describe(ch)
	ch <- c.count
	ch <- c.oldest
	ch <- c.podGroups
	ch <- c.podStatuses
}

// Collect implements prometheus.Collector.
func (c *Controller) Collect(ch chan<- prometheus.Metric) {
	c.collect(ch)
	c.mu.Lock()
	states, podSecrets := c.states, c.podSecrets
	c.mu.Unlock()
	gauge := setter(ch)
	if podSecrets != nil {
		p := podSecrets()
		gauge(c.podGroups, float64(p.Synced), "synced")
		gauge(c.podGroups, float64(p.Failing), "failing")
		gauge(c.podGroups, float64(p.Waiting), "waiting")
		gauge(c.podStatuses, float64(p.Counted), "counted")
		gauge(c.podStatuses, float64(p.Refused), "refused")
	}
	if states == nil {
		return
	}
	s := states()
	gauge(c.count, float64(s.Synced), "synced")
	gauge(c.count, float64(s.Failing), "failing")
	gauge(c.count, float64(s.Waiting), "waiting")
	age := 0.0
	if !s.Oldest.IsZero() {
		age = max(0, c.clock.Now().Sub(s.Oldest).Seconds())
	}
	gauge(c.oldest, age)
}
