package push

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"
)

const (
	// mostBytes bounds what is read of one delivery: Event Grid's own limit.
	mostBytes = 1 << 20
	// mostEvents bounds the events of one delivery: Event Grid's own limit.
	mostEvents = 5000
	// typePrefix begins the types of Key Vault's events.
	typePrefix = "Microsoft.KeyVault."
	// validationType is the type of the event that asks for the handshake of the Event Grid schema.
	validationType = "Microsoft.EventGrid.SubscriptionValidationEvent"
)

// Event is what Key Vault says of one object.
type Event struct {
	// ID is the event's own; empty where it has none.
	ID string
	// Host is the vault's host name, in lower case.
	Host string
	// Name is the object's, in lower case: Key Vault does not distinguish letter cases.
	Name string
	// Version is that of the object, in lower case; empty where the event has none.
	Version string
	// Time is when it happened; zero where the event does not say it in a way that can be read.
	Time time.Time
	// NewVersion is true where there is a new version: other events change nothing that can be fetched.
	NewVersion bool
}

// key is equal for events of one change. A new version of a certificate is one of its secret and its key too, with the same id.
func (e *Event) key() string {
	if e.Version == "" {
		return e.ID
	}
	return e.Host + "/" + e.Name + "/" + e.Version
}

// envelope is an event of either schema.
type envelope struct {
	ID string `json:"id"`
	// Type and Time are CloudEvents'; EventType and EventTime are the Event Grid schema's.
	Type      string          `json:"type"`
	Time      string          `json:"time"`
	EventType string          `json:"eventType"`
	EventTime string          `json:"eventTime"`
	Data      json.RawMessage `json:"data"`
}

// vaultData is the data of Key Vault's events. What is not read here (NBF and EXP, which are numbers, strings or null) may have any type.
type vaultData struct {
	ID string `json:"Id"`
}

// Parse reads a delivery: one event or an array of them, as CloudEvents 1.0 or in the Event Grid schema. Events that cannot be read do not
// keep others from being read: refused says what is wrong with each of them. The error is for deliveries that are no events at all.
func Parse(body []byte) (events []Event, refused []error, err error) {
	envelopes, err := parseEnvelopes(body)
	if err != nil {
		return nil, nil, err
	}
	for i := range envelopes {
		event, err := envelopes[i].event()
		if err != nil {
			refused = append(refused, err)
			continue
		}
		events = append(events, event)
	}
	return events, refused, nil
}

func parseEnvelopes(body []byte) (envelopes []envelope, err error) {
	if len(body) > mostBytes {
		return nil, fmt.Errorf("a delivery of %d bytes: the limit is %d", len(body), mostBytes)
	}
	body = bytes.TrimLeft(body, " \t\r\n")
	if bytes.HasPrefix(body, []byte("[")) {
		err = json.Unmarshal(body, &envelopes)
	} else {
		envelopes = make([]envelope, 1)
		err = json.Unmarshal(body, &envelopes[0])
	}
	switch {
	case err != nil:
		return nil, errors.New("no JSON of CloudEvents 1.0 or of the Event Grid schema") // the decoder's error may quote it
	case len(envelopes) > mostEvents:
		return nil, fmt.Errorf("a delivery of %d events: the limit is %d", len(envelopes), mostEvents)
	}
	return envelopes, nil
}

// eventType is that of either schema.
func (e *envelope) eventType() string {
	if e.Type != "" {
		return e.Type
	}
	return e.EventType
}

var (
	objectName    = regexp.MustCompile(`^[0-9A-Za-z-]{1,127}$`)
	objectVersion = regexp.MustCompile(`^[0-9A-Za-z]{1,64}$`)
	vaultHost     = regexp.MustCompile(`^[0-9a-z-]{1,63}(\.[0-9a-z-]{1,63}){1,8}$`)
)

// event reads one event.
func (e *envelope) event() (Event, error) {
	kind, ok := strings.CutPrefix(e.eventType(), typePrefix)
	if !ok {
		return Event{}, fmt.Errorf("the type %.80q is not one of Key Vault's", e.eventType())
	}
	at, err := time.Parse(time.RFC3339, e.Time+e.EventTime)
	if err != nil {
		at = time.Time{}
	}
	event := Event{ID: clip(e.ID), Time: at}
	if !strings.HasSuffix(kind, "NewVersionCreated") {
		return event, nil
	}
	var data vaultData
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return Event{}, errors.New("the event has no data of a vault's object")
	}
	event.NewVersion = true
	if event.Host, event.Name, event.Version, err = parseObjectID(data.ID); err != nil {
		return Event{}, err
	}
	return event, nil
}

// parseObjectID reads the URL of a version of an object.
func parseObjectID(id string) (host, name, version string, err error) {
	u, err := url.Parse(id)
	if err != nil || len(id) > 1000 || u.Scheme != "https" || u.User != nil || u.Port() != "" && u.Port() != "443" {
		return "", "", "", errors.New("the event's data.Id is not the URL of a vault's object")
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	host = strings.ToLower(u.Hostname())
	if len(parts) == 2 {
		parts = append(parts, "")
	}
	switch {
	case len(parts) != 3, parts[0] != "secrets" && parts[0] != "keys" && parts[0] != "certificates", !objectName.MatchString(parts[1]),
		parts[2] != "" && !objectVersion.MatchString(parts[2]), !vaultHost.MatchString(host):
		return "", "", "", errors.New("the event's data.Id is not the URL of a vault's object")
	}
	return host, strings.ToLower(parts[1]), strings.ToLower(parts[2]), nil
}

// clip bounds an id from outside.
func clip(id string) string {
	const most = 128
	if len(id) > most {
		return strings.ToValidUTF8(id[:most], "")
	}
	return id
}

// decodeMessage returns the JSON of a queue's message, which Event Grid encodes as base64.
func decodeMessage(text string) ([]byte, error) {
	trimmed := strings.TrimSpace(text)
	if strings.HasPrefix(trimmed, "{") || strings.HasPrefix(trimmed, "[") {
		return []byte(trimmed), nil
	}
	decoded, err := base64.StdEncoding.DecodeString(trimmed)
	if err != nil {
		return nil, errors.New("the message is neither JSON nor base64")
	}
	return decoded, nil
}
