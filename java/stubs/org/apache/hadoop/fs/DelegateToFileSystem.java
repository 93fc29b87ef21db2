// SPDX-License-Identifier: Apache-2.0
package org.apache.hadoop.fs;

import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;

import org.apache.hadoop.conf.Configuration;

public abstract class DelegateToFileSystem extends AbstractFileSystem {
    protected DelegateToFileSystem(
            URI uri, FileSystem system, Configuration conf, String scheme, boolean authority)
            throws IOException, URISyntaxException {}
}
