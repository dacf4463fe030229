package emulatortest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

// Microsoft's client sets, gets and deletes a secret, and the time passes in which it could be recovered. In a test,
// emulatortest.Start takes the place of the first lines.
func Example() {
	if err := example(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// correct horse
	// to be purged after 2160h0m0s
	// 404 SecretNotFound
	// 1 secret was read
}

func example() error {
	seed, err := emulator.ParseSeed([]byte(emulatortest.Seed + "tokenLifetime: 4000h\n")) // longer than the clock is moved
	if err != nil {
		return err
	}
	server, err := emulator.New(emulator.Options{Seed: seed})
	if err != nil {
		return err
	}
	if err := server.Start("127.0.0.1:0"); err != nil {
		return err
	}
	defer func() { _ = server.Close() }()

	options := azcore.ClientOptions{Transport: server.Client()}
	credential, err := azidentity.NewClientSecretCredential(emulatortest.Tenant, emulatortest.ClientID, emulatortest.ClientSecret,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: options})
	if err != nil {
		return err
	}
	client, err := azsecrets.NewClient(emulatortest.VaultURL, credential, &azsecrets.ClientOptions{ClientOptions: options})
	if err != nil {
		return err
	}

	ctx, value := context.Background(), "correct horse"
	if _, err := client.SetSecret(ctx, "db-password", azsecrets.SetSecretParameters{Value: &value}, nil); err != nil {
		return err
	}
	got, err := client.GetSecret(ctx, "db-password", "", nil)
	if err != nil {
		return err
	}
	fmt.Println(*got.Value)

	if _, err := client.DeleteSecret(ctx, "db-password", nil); err != nil {
		return err
	}
	deleted, err := client.GetDeletedSecret(ctx, "db-password", nil)
	if err != nil {
		return err
	}
	fmt.Println("to be purged after", deleted.ScheduledPurgeDate.Sub(*deleted.DeletedDate))

	server.AdvanceClock(91 * 24 * time.Hour)
	_, err = client.GetDeletedSecret(ctx, "db-password", nil)
	if refused, ok := errors.AsType[*azcore.ResponseError](err); ok {
		fmt.Println(refused.StatusCode, refused.ErrorCode)
	}
	fmt.Println(server.Counts()["get secret"], "secret was read")
	return nil
}
