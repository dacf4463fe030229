package main

import (
	"log/slog"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/push"
)

// pushFlags are those of Key Vault's events.
type pushFlags struct{ push.Options }

func (f *pushFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.QueueURL, "events-queue-url", "",
		"`URL` of the storage queue that Event Grid fills with Key Vault's events, https://ACCOUNT.queue.core.windows.net/QUEUE; empty: none")
	fs.DurationVar(&f.QueueInterval, "events-poll-interval", time.Second, "how often an empty queue is asked")
	fs.StringVar(&f.ClientID, "events-client-id", "", "client `ID` of the identity that reads the queue; empty: the machine's managed identity")
	fs.StringVar(&f.TenantID, "events-tenant-id", "", "tenant `ID` of that identity, with --events-token-file")
	fs.StringVar(&f.TokenFile, "events-token-file", "",
		"`file` of the service account's token, for workload identity; empty: a managed identity is used")
	fs.StringVar(&f.Listen, "events-listen", "", "`address` of an HTTPS web hook for Key Vault's events; empty: none")
	fs.StringVar(&f.CertFile, "events-tls-cert-file", "", "PEM `file` of the web hook's certificate; it is read again when it changes")
	fs.StringVar(&f.KeyFile, "events-tls-key-file", "", "PEM `file` of the web hook's key")
	fs.StringVar(&f.Issuer, "events-issuer", "",
		"`issuer` of the tokens that deliveries must have, such as https://sts.windows.net/TENANT/; required with --events-listen")
	fs.StringVar(&f.Audience, "events-audience", "", "`audience` of those tokens; required with --events-listen")
}

// pushOptions are those of the flags, with what the controller has for all of its parts.
func (f *flags) pushOptions(log *slog.Logger) push.Options {
	o := f.push.Options
	o.Cloud, o.CloudConfigDir, o.AllowedVaultHosts, o.CAFile = f.cloud, f.cloudConfigDir, f.allowedHosts, f.caFile
	o.Clock, o.Log = clock.RealClock{}, log
	return o
}
