import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import javax.crypto.spec.SecretKeySpec;

/** Writes a PKCS#12 key store with an empty password: java MakePFX.java modern|nil|secretkey NAME PKI PFX. */
class MakePFX {
    public static void main(String[] args) throws Exception {
        String pki = args[2];
        // Java derives keys from no bytes at all for one NUL, and from the terminator alone for no character.
        char[] password = args[0].equals("nil") ? new char[] {0} : new char[0];
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        String pem = Files.readString(Path.of(pki, "rsa.key")).replaceAll("-----[A-Z ]+-----", "");
        PrivateKey key = KeyFactory.getInstance("RSA")
                .generatePrivate(new PKCS8EncodedKeySpec(Base64.getMimeDecoder().decode(pem)));
        Certificate[] chain = {read(pki, "rsa"), read(pki, "intermediate"), read(pki, "root")};
        store.setKeyEntry("vectors", key, password, chain);
        if (args[0].equals("secretkey")) {
            store.setEntry("token", new KeyStore.SecretKeyEntry(new SecretKeySpec(new byte[16], "AES")),
                    new KeyStore.PasswordProtection(password));
        }
        try (FileOutputStream out = new FileOutputStream(args[3] + "/" + args[1] + ".pfx")) {
            store.store(out, password);
        }
    }

    private static Certificate read(String pki, String name) throws Exception {
        try (FileInputStream in = new FileInputStream(pki + "/" + name + ".pem")) {
            return CertificateFactory.getInstance("X.509").generateCertificate(in);
        }
    }
}
