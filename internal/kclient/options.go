package kclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The SASL mechanisms that are supported.
const (
	MechanismPlain       = "PLAIN"
	MechanismScramSHA256 = "SCRAM-SHA-256"
	MechanismScramSHA512 = "SCRAM-SHA-512"
	MechanismOAuthBearer = "OAUTHBEARER"
	MechanismAWSMSKIAM   = "AWS_MSK_IAM"
)

// Mechanisms lists the supported SASL mechanisms.
func Mechanisms() []string {
	return []string{MechanismPlain, MechanismScramSHA256, MechanismScramSHA512, MechanismOAuthBearer, MechanismAWSMSKIAM}
}

// Options says how to reach one cluster. The zero value of a field is its
// default; New never writes to the caller's copy.
type Options struct {
	Name             string                                                            // the cluster's name, for errors and logs
	BootstrapServers []string                                                          // host:port, at least one
	ClientID         string                                                            // "" means "anabranch"
	SoftwareVersion  string                                                            // told to the brokers; "" means "dev"
	TLS              *TLS                                                              // nil means plaintext
	SASL             *SASL                                                             // nil means no authentication by SASL
	Dialer           func(ctx context.Context, network, addr string) (net.Conn, error) // opens the TCP connection, TLS is put on top; nil means net.Dialer
	DialTimeout      time.Duration                                                     // for connecting and for the TLS handshake together; 0 means 5 s
	Logger           *slog.Logger                                                      // nil means discard
	Warnings         *Warnings                                                         // shared by clients whose log is one; nil means of this client alone
	Hooks            []kgo.Hook
}

// TLS configures encryption. The zero value verifies the broker with the
// system's certificate authorities.
type TLS struct {
	CAFile             string // PEM; "" means the system's authorities
	CertFile           string // PEM; client certificate, needs KeyFile
	KeyFile            string // PEM
	ServerName         string // expected in the broker's certificate; "" means the host that is dialled
	InsecureSkipVerify bool   // any certificate is accepted; for tests only
}

// SASL configures authentication.
type SASL struct {
	Mechanism string // one of Mechanisms
	Username  string // PLAIN and SCRAM
	Password  dr.Secret
	OAuth     OAuth // OAUTHBEARER
	AWS       AWS   // AWS_MSK_IAM
}

// OAuth configures the client credentials grant of RFC 6749.
type OAuth struct {
	TokenURL     string // https, or http on a loopback address
	ClientID     string
	ClientSecret dr.Secret
	Scope        string // optional, space separated
	CAFile       string // PEM; "" means the system's authorities
}

// AWS configures AWS_MSK_IAM. Either the keys are given, or a shared
// credentials file, which is read again at every authentication so that rotated
// keys are taken over.
type AWS struct {
	AccessKey       string
	SecretKey       dr.Secret
	SessionToken    dr.Secret
	CredentialsFile string
	Profile         string // section of CredentialsFile; "" means "default"
}

// Validate lists every problem of the options, joined.
func (o Options) Validate() error {
	var errs []error
	if len(o.BootstrapServers) == 0 {
		errs = append(errs, errors.New("bootstrap_servers: at least one is needed"))
	}
	for _, s := range o.BootstrapServers {
		if err := CheckAddress(s); err != nil {
			errs = append(errs, fmt.Errorf("bootstrap_servers: %w", err))
		}
	}
	if t := o.TLS; t != nil && (t.CertFile == "") != (t.KeyFile == "") {
		errs = append(errs, errors.New("tls: cert_file and key_file are needed together"))
	}
	if o.SASL != nil {
		errs = append(errs, o.SASL.validate())
	}
	return errors.Join(errs...)
}

func (s *SASL) validate() error {
	var errs []error
	need := func(missing bool, key string) {
		if missing {
			errs = append(errs, fmt.Errorf("sasl.%s: needed for %s", key, s.Mechanism))
		}
	}
	switch s.Mechanism {
	case MechanismPlain, MechanismScramSHA256, MechanismScramSHA512:
		need(s.Username == "", "username")
		need(s.Password.IsZero(), "password")
	case MechanismOAuthBearer:
		need(s.OAuth.ClientID == "", "oauth.client_id")
		need(s.OAuth.ClientSecret.IsZero(), "oauth.client_secret")
		if s.OAuth.TokenURL == "" {
			need(true, "oauth.token_url")
		} else if err := CheckTokenURL(s.OAuth.TokenURL); err != nil {
			errs = append(errs, fmt.Errorf("sasl.oauth.token_url: %w", err))
		}
	case MechanismAWSMSKIAM:
		if s.AWS.CredentialsFile == "" {
			need(s.AWS.AccessKey == "", "aws.access_key")
			need(s.AWS.SecretKey.IsZero(), "aws.secret_key")
		}
	default:
		errs = append(errs, fmt.Errorf("sasl.mechanism: unknown mechanism %q", s.Mechanism))
	}
	return errors.Join(errs...)
}

// CheckAddress reports what is wrong with a "host:port" address, nil if
// nothing is.
func CheckAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	switch {
	case err != nil && !strings.Contains(addr, ":"):
		return fmt.Errorf("%q has no port (write host:port)", addr)
	case err != nil:
		return fmt.Errorf("%q is not host:port", addr)
	case host == "":
		return fmt.Errorf("%q has no host (write host:port)", addr)
	case port == "":
		return fmt.Errorf("%q has no port (write host:port)", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n < 1 {
		return fmt.Errorf("%q: %q is not a port number between 1 and 65535", addr, port)
	}
	return nil
}

// CheckTokenURL reports what is wrong with the address of a token endpoint, nil
// if nothing is. The client secret travels in the request, so plain http is
// taken on loopback addresses only.
func CheckTokenURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		// The text of url.Error repeats the URL, which may hold user
		// information.
		return errors.New("not a URL")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("must start with https://")
	case u.Hostname() == "":
		return errors.New("has no host")
	case u.User != nil:
		return errors.New("must not hold a user name or password")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("must be https unless the host is a loopback address")
	}
	return nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (o Options) withDefaults() Options {
	if o.ClientID == "" {
		o.ClientID = "anabranch"
	}
	if o.SoftwareVersion == "" {
		o.SoftwareVersion = "dev"
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Warnings == nil {
		o.Warnings = NewWarnings()
	}
	if o.Dialer == nil {
		// Keep-alive finds peers that vanished without a word; the default
		// of the operating system takes hours.
		d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
		o.Dialer = d.DialContext
	}
	o.BootstrapServers = slices.Clone(o.BootstrapServers)
	return o
}
