package kclient

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl/aws"
)

// auth returns the credentials for one session.
func (a AWS) auth() (aws.Auth, error) {
	if a.CredentialsFile == "" {
		return aws.Auth{AccessKey: a.AccessKey, SecretKey: a.SecretKey.Reveal(), SessionToken: a.SessionToken.Reveal()}, nil
	}
	raw, err := readBounded(a.CredentialsFile)
	if err != nil {
		return aws.Auth{}, &TokenError{Err: fmt.Errorf("read aws credentials_file: %w", err)}
	}
	profile := a.Profile
	if profile == "" {
		profile = "default"
	}
	values := iniSection(raw, profile)
	auth := aws.Auth{
		AccessKey:    values["aws_access_key_id"],
		SecretKey:    values["aws_secret_access_key"],
		SessionToken: values["aws_session_token"],
	}
	if auth.AccessKey == "" || auth.SecretKey == "" {
		return aws.Auth{}, &TokenError{Err: fmt.Errorf("read aws credentials_file: profile %q of %s has no aws_access_key_id and aws_secret_access_key", profile, a.CredentialsFile)}
	}
	return auth, nil
}

// iniSection returns the keys of one section of an AWS shared credentials file.
func iniSection(raw []byte, section string) map[string]string {
	values := map[string]string{}
	inside := false
	sc := bufio.NewScanner(bytes.NewReader(raw))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		switch {
		case line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			inside = strings.TrimSpace(line[1:len(line)-1]) == section
		case inside:
			if k, v, ok := strings.Cut(line, "="); ok {
				values[strings.TrimSpace(k)] = strings.TrimSpace(v)
			}
		}
	}
	return values
}
